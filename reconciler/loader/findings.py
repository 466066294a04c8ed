"""What a comparison of fields found."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.loader.problems import Loc


@dataclass(frozen=True)
class Finding:
    """`locs` are the fields compared, the one to change first."""

    locs: tuple[Loc, ...]
    message: str
    suggestion: str = ""
    warning: bool = False
