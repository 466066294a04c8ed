"""Numbers as the shapes of an SVG, in a box of WIDTH x HEIGHT with the newest at the right. Pure.

A column is six seconds, cut at the same moments each time, so that a picture moves on by whole columns and
does not flicker between. Coordinates are whole numbers and even stretches are one step: pages follow each
second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.dashboard.trend import SECONDS, Sample

COLUMN_S = 6
WIDTH, HEIGHT = SECONDS // COLUMN_S, 200
BELOW = HEIGHT + 9  # out of sight


@dataclass(frozen=True)
class Line:
    """name: its class in the style sheet. path: of an SVG; gaps where nothing was measured."""

    name: str
    path: str


@dataclass(frozen=True)
class Chart:
    """now: of the first line. top: of the scale. key: (class, name and value now) where it has several lines.
    summary: for who cannot see it. lines: the last one on top."""

    title: str
    now: str
    top: str
    summary: str
    lines: tuple[Line, ...]
    key: tuple[tuple[str, str], ...] = ()
    width: int = WIDTH
    height: int = HEIGHT


def columns(samples: Sequence[Sample], field: str) -> list[float | None]:
    """WIDTH values, the newest last; each is the largest of its seconds: a peak must not vanish."""
    found: list[float | None] = [None] * WIDTH
    if not samples:
        return found
    newest = int(samples[-1].at // COLUMN_S)
    for sample in samples:
        place = WIDTH - 1 - (newest - int(sample.at // COLUMN_S))
        value = getattr(sample, field)
        if value is not None and 0 <= place < WIDTH:
            before = found[place]
            found[place] = float(value) if before is None else max(before, float(value))
    return found


def path(values: Sequence[float | None], top: float, *, area: bool = False) -> str:
    """top: the value at the upper edge. An even stretch is one step, a single value a dot. area: closed below
    the box, so that it can be filled."""
    words: list[str] = []
    before: float | None = None
    for x, value in enumerate(values):
        if value is None:
            before = None
            continue
        after = values[x + 1] if x + 1 < len(values) else None
        y = _height(value, top)
        if before is None:
            words.append(f"M{x} {BELOW}V{y}" if area else f"M{x} {y}" + ("h0" if after is None else ""))
        elif after is None or not (_height(before, top) == y == _height(after, top)):
            words.append(f"L{x} {y}")
        if after is None and area:
            words.append(f"V{BELOW}")
        before = value
    return "".join(words)


def _height(value: float, top: float) -> int:
    return HEIGHT - 2 - round((HEIGHT - 4) * (min(max(value, 0.0), top) / top if top > 0 else 0.0))


def chart(
    title: str, samples: Sequence[Sample], lines: Mapping[str, tuple[str, str]], form: Any, least: float
) -> Chart:
    """lines: by class, the field of a sample and, where there are several, what it is called. form: a format,
    or what puts a value into words. least: the scale never ends lower."""
    words = form if callable(form) else form.format
    drawn = {name: columns(samples, field) for name, (field, _) in lines.items()}
    known = [value for values in drawn.values() for value in values if value is not None]
    top = max([least, *known])
    if not callable(form):
        top = _round_up(top)
    told = []
    for field, called in lines.values():
        value = getattr(samples[-1], field) if samples else None
        told.append(((f"{called} " if called else "") + ("–" if value is None else words(value))).strip())
    peak = words(max(known)) if known else "nothing"
    return Chart(
        title,
        told[0],
        words(top),
        f"{title}: now {', '.join(told)}; at most {peak} in the last {SECONDS // 60} minutes",
        tuple(Line(name, path(v, top, area=n == 0)) for n, (name, v) in enumerate(drawn.items())),
        tuple(zip(lines, told, strict=True)) if len(lines) > 1 else (),
    )


def _round_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten: a scale that people read, and that rarely changes."""
    step = 1e-3
    while True:
        for factor in (1, 2, 5):
            if value <= step * factor * (1 + 1e-9):
                return step * factor
        step *= 10
