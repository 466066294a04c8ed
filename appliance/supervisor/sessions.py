"""Which conversations are under way, so that a strained machine goes on with those before it takes new ones.

Only hashes are kept: what a client calls its session may name a person.
"""

from __future__ import annotations

from collections import OrderedDict

LIFE = 600.0  # seconds after its last request that a session is still known
MOST = 10_000


class Sessions:
    """Per model. Times in seconds on the loop's clock."""

    def __init__(self) -> None:
        self._seen: OrderedDict[int, list[float]] = OrderedDict()  # key -> [requests that run, last seen]

    def __len__(self) -> int:
        return len(self._seen)

    def known(self, model: str, session: str | None, now: float) -> bool:
        """Whether a request of it runs on this model, or ended lately."""
        found = None if session is None else self._seen.get(hash((model, session)))
        return found is not None and (found[0] > 0 or now - found[1] < LIFE)

    def began(self, model: str, session: str | None, now: float) -> None:
        self._touch(model, session, now, 1)

    def ended(self, model: str, session: str | None, now: float) -> None:
        self._touch(model, session, now, -1)

    def _touch(self, model: str, session: str | None, now: float, change: int) -> None:
        if session is None:
            return
        key = hash((model, session))
        found = self._seen.setdefault(key, [0, now])
        found[0] = max(0, found[0] + change)  # below: it was forgotten while its request ran
        found[1] = now
        self._seen.move_to_end(key)
        if len(self._seen) > MOST:
            self._seen.popitem(last=False)
