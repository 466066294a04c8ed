"""The whole page as plain data: order, words and shapes. Pure: the same document gives the same page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.dashboard.attention import Attention, attention
from appliance.dashboard.charts import POINTS, Chart, Line, path, thinned
from appliance.dashboard.trend import SECONDS, Sample
from appliance.dashboard.wording import size, span

HISTORY, EVENTS = 8, 30
BAR = 1000  # units of the memory bar's width


@dataclass(frozen=True)
class Segment:
    """A piece of the memory bar. name: its class in the style sheet. x, width: of BAR."""

    name: str
    x: int
    width: int


@dataclass(frozen=True)
class Bar:
    """marks: (name, x). text: the same in words."""

    segments: tuple[Segment, ...]
    marks: tuple[tuple[str, int], ...]
    text: str


@dataclass(frozen=True)
class View:
    status: Mapping[str, Any]
    now: float
    attention: tuple[Attention, ...]
    bar: Bar | None
    charts: tuple[Chart, ...]
    history: tuple[Mapping[str, Any], ...]
    events: tuple[Mapping[str, Any], ...]
    diff: tuple[tuple[str, str], ...]  # (added | removed | same | place, line)


def view(status: Mapping[str, Any], samples: Sequence[Sample], diff: Sequence[str], now: float) -> View:
    """samples: the oldest first. diff: a unified one, where an edit was refused. now: wall clock."""
    newest = sorted(status["events"], key=lambda event: -int(event["id"]))
    past = sorted(status["history"], key=lambda one: -int(one["generation"]))
    return View(
        status=status,
        now=now,
        attention=tuple(attention(status)),
        bar=bar(status["memory"]),
        charts=tuple(charts(status, samples)),
        history=tuple(past[:HISTORY]),
        events=tuple(newest[:EVENTS]),
        diff=tuple((_kind(line), line) for line in diff),
    )


def bar(memory: Mapping[str, Any]) -> Bar | None:
    """Ours against the budget. None: not measured yet."""
    budget, used = memory["budget_bytes"], memory["used_bytes"]
    if not budget or used is None:
        return None
    whole = max(budget, used)

    def at(nbytes: float) -> int:
        return int(round(BAR * min(nbytes, whole) / whole))  # noqa: RUF046 - budget comes from JSON

    marks = tuple((name, at(memory[f"{name}_bytes"])) for name in ("warning", "critical"))
    text = (
        f"LMX uses {size(used)} of {size(budget)}; warning at {size(memory['warning_bytes'])}, critical at "
        f"{size(memory['critical_bytes'])}. Other programs use {size(memory['other_bytes'] or 0)}."
    )
    return Bar((Segment(memory["level"] or "normal", 0, at(used)),), marks, text)


def charts(status: Mapping[str, Any], samples: Sequence[Sample]) -> list[Chart]:
    rate = [sample.tokens_per_s for sample in samples]
    first = [sample.first_s for sample in samples]
    used = [None if sample.used is None else float(sample.used) for sample in samples]
    queued = [float(sample.queued) for sample in samples]
    running = [float(sample.in_flight) for sample in samples]
    budget = status["memory"]["budget_bytes"] or 0
    return [
        _chart("Tokens per second", {"rate": rate}, "{:.0f}", least=10.0),
        _chart("Time to first token, p95", {"first": first}, "{:.2f} s", least=0.5),
        _chart("Memory", {"used": used}, size, least=float(budget) or 1.0),
        _chart("Requests, running and waiting", {"running": running, "queued": queued}, "{:.0f}", least=4.0),
    ]


def _chart(title: str, series: Mapping[str, Sequence[float | None]], form: Any, least: float) -> Chart:
    """form: a format, or what puts a value into words. least: the scale never ends lower."""
    words = form if callable(form) else form.format
    known = [value for values in series.values() for value in values if value is not None]
    top = max([least, *known])
    lines, now = [], []
    for name, values in series.items():
        lines.append(Line(name, path(_thin(values), top)))
        last = next((value for value in reversed(values) if value is not None), None)
        now.append("–" if last is None else words(last))
    shown = ", ".join(now)
    peak = words(max(known)) if known else "nothing"
    minutes = span(len(next(iter(series.values()))))
    return Chart(title, shown, words(top), f"{title}: now {shown}, at most {peak} in {minutes}", tuple(lines))


def _thin(values: Sequence[float | None]) -> list[float | None]:
    """As many points as their part of the whole time."""
    return thinned(values, max(1, len(values) * POINTS // SECONDS)) if values else []


def _kind(line: str) -> str:
    if line.startswith(("+++", "---", "@@")):
        return "place"
    return {"+": "added", "-": "removed"}.get(line[:1], "same")
