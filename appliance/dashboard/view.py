"""The whole page as plain data: order, words and shapes. Pure: the same document gives the same page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.dashboard.attention import Attention, attention, good, told
from appliance.dashboard.charts import Chart, chart
from appliance.dashboard.diff import NOTHING, Pending
from appliance.dashboard.memory import Bar, bar
from appliance.dashboard.pace import Pace
from appliance.dashboard.trend import Sample
from appliance.dashboard.wording import size, span

HISTORY, EVENTS = 8, 30
# Of an event, beside its words: what the eye should find in a long list.
_LOUD = ("Failed", "Rejected", "Runaway", "Quarantined", "RolledBack")


@dataclass(frozen=True)
class Step:
    """One line of the plan. progress: (done, total) in bytes. told: progress in words."""

    action: str
    model: str
    state: str
    field: str
    reason: str
    mark: str
    progress: tuple[int, int] | None
    told: str


@dataclass(frozen=True)
class View:
    """conditions: (condition, how it looks: good | bad | quiet). events: (event, whether it is a bad one).
    diff: (added | removed | same | place, line)."""

    status: Mapping[str, Any]
    now: float
    attention: tuple[Attention, ...]
    conditions: tuple[tuple[Mapping[str, Any], str], ...]
    plan: tuple[Step, ...]
    progress: Mapping[str, str]
    bar: Bar | None
    charts: tuple[Chart, ...]
    history: tuple[Mapping[str, Any], ...]
    events: tuple[tuple[Mapping[str, Any], bool], ...]
    pending: Pending
    diff: tuple[tuple[str, str], ...]


def view(
    status: Mapping[str, Any],
    samples: Sequence[Sample],
    now: float,
    pending: Pending = NOTHING,
    paces: Mapping[str, Pace] | None = None,
) -> View:
    """samples: the oldest first. now: wall clock."""
    newest = sorted(status["events"], key=lambda event: -int(event["id"]))
    past = sorted(status["history"], key=lambda one: -int(one["generation"]))
    moving = {
        name: _progress(model["progress"], (paces or {}).get(name))
        for name, model in status["models"].items()
        if model["progress"]
    }
    shown = pending if _worth_a_diff(status, pending) else NOTHING
    return View(
        status=status,
        now=now,
        attention=tuple(attention(status)),
        conditions=tuple((one, _look(one, status["conditions"])) for one in status["conditions"]),
        plan=tuple(
            _step(line, status, moving)
            for line in sorted(status["plan"], key=lambda x: x["state"] != "running")
        ),
        progress=moving,
        bar=bar(status["memory"]),
        charts=tuple(charts(status, samples)),
        history=tuple(past[:HISTORY]),
        events=tuple((event, event["type"].endswith(_LOUD)) for event in newest[:EVENTS]),
        pending=shown,
        diff=tuple((_kind(line), line) for line in shown.lines),
    )


def _worth_a_diff(status: Mapping[str, Any], pending: Pending) -> bool:
    """A refused edit is; one that is being carried out is no news, unless it does not get on."""
    if pending.what == "refused":
        return True
    held = {one["type"]: one["status"] for one in status["conditions"]}
    return held.get("Synced") == "False" and held.get("Reconciling") != "True"


def _look(condition: Mapping[str, Any], beside: Sequence[Mapping[str, Any]]) -> str:
    held = {one["type"]: one["status"] for one in beside}
    late = condition["type"] == "Synced" and held["Synced"] == "False" and held.get("Reconciling") != "True"
    if told(condition) or late:
        return "bad"
    return "good" if good(condition) else "quiet"


def _step(line: Mapping[str, Any], status: Mapping[str, Any], moving: Mapping[str, str]) -> Step:
    model = status["models"].get(line["model"])
    going = line["state"] == "running" and model is not None and model["progress"]
    return Step(
        action=line["action"],
        model=line["model"] or "",
        state=line["state"],
        field=line["field"] or "",
        reason=line["reason"] or "",
        mark=line.get("mark") or "",
        progress=(going["done"], going["total"]) if going else None,
        told=moving[line["model"]] if going else "",
    )


def _progress(progress: Mapping[str, Any], pace: Pace | None) -> str:
    """ "1.0 GiB of 4.0 GiB, 25 %, 80 MiB/s, 38 s left"."""
    done, total = progress["done"], progress["total"]
    words = [f"{size(done)} of {size(total)}", f"{100 * done // total} %"]
    if pace is not None and done < total:
        words.append(f"{size(pace.rate)}/s" if pace.left is not None else "stands still")
        if pace.left is not None:
            words.append(f"{span(pace.left + 1.0)} left")
    return ", ".join(words)


def charts(status: Mapping[str, Any], samples: Sequence[Sample]) -> list[Chart]:
    memory = status["memory"]
    whole = float(memory["total_bytes"] or memory["budget_bytes"] or 1)
    return [
        chart("Tokens per second", samples, {"rate": ("tokens_per_s", "")}, "{:.0f}", 10.0),
        chart("Time to first token, p95", samples, {"first": ("first_s", "")}, "{:.2f} s", 0.5),
        chart("Memory", samples, {"used": ("used", "LMX"), "other": ("other", "others")}, size, whole),
        chart(
            "Requests",
            samples,
            {"running": ("in_flight", "running"), "queued": ("queued", "waiting")},
            "{:.0f}",
            5.0,
        ),
    ]


def _kind(line: str) -> str:
    if line.startswith(("+++", "---", "@@")):
        return "place"
    return {"+": "added", "-": "removed"}.get(line[:1], "same")
