"""One finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

# ok; look: it works, but not as well as it could; bad: it will not work; unknown: it could not be looked at
Level = Literal["ok", "look", "bad", "unknown"]
Run = Callable[[Sequence[str]], str | None]  # standard output of a command; None: it failed, or there is none


@dataclass(frozen=True)
class Finding:
    """about: a word or two. fix: what to do, where there is something to do."""

    about: str
    level: Level
    message: str
    fix: str | None = None
