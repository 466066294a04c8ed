"""How fast a download or a load goes, from what it had done at the last looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WINDOW_S = 15.0
LEAST_S = 1.5  # two looks closer than this say nothing


@dataclass(frozen=True)
class Pace:
    """rate: bytes a second. left: seconds; None: not known, or it stands still."""

    rate: float
    left: float | None


class Paces:
    """One per model that has progress."""

    def __init__(self) -> None:
        self._looks: dict[str, deque[tuple[float, int, int]]] = {}  # (at, done, total)

    def look(self, models: Mapping[str, Mapping[str, Any]], now: float) -> dict[str, Pace]:
        """models: as in the status document. now: seconds, of any clock that only rises."""
        going = {name: one["progress"] for name, one in models.items() if one["progress"]}
        self._looks = {name: looks for name, looks in self._looks.items() if name in going}
        found = {}
        for name, progress in going.items():
            looks = self._looks.setdefault(name, deque())
            done, total = progress["done"], progress["total"]
            if looks and (looks[-1][2] != total or looks[-1][1] > done):
                looks.clear()  # another download, or the same one from its beginning
            looks.append((now, done, total))
            while looks[-1][0] - looks[0][0] > WINDOW_S and len(looks) > 2:
                looks.popleft()
            began, had, _ = looks[0]
            if now - began >= LEAST_S:
                rate = (done - had) / (now - began)
                found[name] = Pace(rate, (total - done) / rate if rate > 0 else None)
        return found
