"""The machine's memory as one bar. Pure.

Ours grows from the left, what other programs take from the right; between them is what is free. The budget is
ours to use, so others that reach to the left of its mark take from us: the picture shows who crowds whom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.dashboard.wording import size

WIDTH = 1000  # units of the whole bar


@dataclass(frozen=True)
class Segment:
    """name: its class in the style sheet. x, width: of WIDTH."""

    name: str
    x: int
    width: int


@dataclass(frozen=True)
class Mark:
    """A limit of ours: warning, critical or budget."""

    name: str
    x: int
    text: str


@dataclass(frozen=True)
class Bar:
    """legend: (class, name, size). text: all of it in words."""

    segments: tuple[Segment, ...]
    marks: tuple[Mark, ...]
    legend: tuple[tuple[str, str, str], ...]
    text: str


def bar(memory: Mapping[str, Any]) -> Bar | None:
    """None: not measured yet."""
    budget: int | None = memory["budget_bytes"]
    used: int | None = memory["used_bytes"]
    other: int = memory["other_bytes"] or 0
    if not budget or used is None:
        return None
    whole: int = max(memory["total_bytes"] or 0, budget, used)

    def at(nbytes: float) -> int:
        return round(WIDTH * min(nbytes, whole) / whole)

    ours = at(used)
    others = min(at(other), WIDTH - ours)
    level = memory["level"] or "normal"
    look = {"ours": "ours normal", "others": "others"}  # who causes it has its colour
    if level != "normal":
        cause = memory["cause"] or "ours"
        look[cause] = f"{cause} {level}"
    segments = (Segment(look["ours"], 0, ours), Segment(look["others"], WIDTH - others, others))
    limits = {"warning": memory["warning_bytes"], "critical": memory["critical_bytes"], "budget": budget}
    marks = tuple(Mark(name, at(value), size(value)) for name, value in limits.items())
    legend = (
        (look["ours"], "LMX", size(used)),
        (look["others"], "other programs", size(other)),
        ("free", "free", size(max(0, whole - used - other))),
    )
    text = (
        f"LMX uses {size(used)} of its budget of {size(budget)}; warning at {size(limits['warning'])}, "
        f"critical at {size(limits['critical'])}. Other programs use {size(other)} of the machine's "
        f"{size(whole)}."
    )
    return Bar(segments, marks, legend, text)
