"""Numbers as the shapes of an SVG, in a box of WIDTH x HEIGHT with the newest at the right. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 300, 60
POINTS = 150  # more would not be seen, and would be sent each time


@dataclass(frozen=True)
class Line:
    """name: its class in the style sheet. path: of an SVG; gaps where nothing was measured."""

    name: str
    path: str


@dataclass(frozen=True)
class Chart:
    """now, most: in words. summary: for who cannot see it."""

    title: str
    now: str
    most: str
    summary: str
    lines: tuple[Line, ...]
    width: int = WIDTH
    height: int = HEIGHT


def thinned(values: Sequence[float | None], points: int = POINTS) -> list[float | None]:
    """At most so many, each the largest of its stretch: a peak must not vanish."""
    if len(values) <= points:
        return list(values)
    out: list[float | None] = []
    for number in range(points):
        stretch = values[number * len(values) // points : (number + 1) * len(values) // points]
        out.append(max((value for value in stretch if value is not None), default=None))
    return out


def path(values: Sequence[float | None], most: float, room: int = POINTS) -> str:
    """most: the value at the top. room: how many values the whole width has; fewer begin further right."""
    step = WIDTH / max(1, room - 1)
    begin = WIDTH - step * (len(values) - 1)
    words: list[str] = []
    open_ = False
    for number, value in enumerate(values):
        if value is None:
            open_ = False
            continue
        x = begin + step * number
        y = HEIGHT - 1 - (HEIGHT - 2) * (min(value, most) / most if most > 0 else 0.0)
        words.append(f"{'L' if open_ else 'M'}{x:.1f} {y:.1f}")
        open_ = True
    return "".join(words)
