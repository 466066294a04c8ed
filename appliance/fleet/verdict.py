"""What a fleet's documents come to. Pure.

A machine has *converged* when it is Synced on the wanted revision. Wanted is what was asked for: a commit, or
the digest of a spec. Where nothing was, it is the commit that most of those that follow Git have; a machine
with a file of its own must then only be Synced with that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from appliance.fleet.poll import Answer

# The first that holds: silent (no answer), down (its active model does not answer), lagging, degraded, fine
State = Literal["silent", "down", "lagging", "degraded", "fine"]
STATES: tuple[State, ...] = ("silent", "down", "lagging", "degraded", "fine")


@dataclass(frozen=True)
class Row:
    """revision: commit, or digest of its file. why: of any state but fine."""

    name: str
    url: str
    state: State
    summary: str
    revision: str | None
    generation: int | None
    active: str | None
    why: str


@dataclass(frozen=True)
class Verdict:
    """rows: the worst first, else in the order of the inventory. counts: machines by state."""

    wanted: str | None
    rows: tuple[Row, ...]
    counts: dict[State, int]

    @property
    def fine(self) -> bool:
        return self.counts["fine"] == len(self.rows)


def verdict(answers: Sequence[Answer], wanted: str | None = None) -> Verdict:
    """wanted: the beginning of a commit or digest; None: what most machines have."""
    known = Counter(has for answer in answers if answer.status and (has := commit(answer.status)))
    most = wanted or (known.most_common(1)[0][0] if known else None)
    found = [_row(answer, most, asked=wanted is not None) for answer in answers]
    counts = Counter(row.state for row in found)
    rows = sorted(found, key=lambda row: STATES.index(row.state))
    return Verdict(most, tuple(rows), {state: counts[state] for state in STATES})


def commit(status: dict[str, Any]) -> str | None:
    """None: it has a file of its own."""
    source = status.get("source")
    found = source.get("revision") if isinstance(source, dict) else None
    return found if isinstance(found, str) else None


def _row(answer: Answer, wanted: str | None, *, asked: bool) -> Row:
    machine, status = answer.machine, answer.status
    if status is None:
        return Row(machine.name, machine.url, "silent", "", None, None, None, answer.why)
    digest, has = status.get("digest"), commit(status)
    compared = asked or has is not None
    has = has or (digest if isinstance(digest, str) else None)
    conditions = _conditions(status)
    generation, active = status.get("generation"), status.get("active")
    state, why = _state(status, conditions, has, wanted if compared else None)
    return Row(
        machine.name,
        machine.url,
        state,
        status["summary"],
        has,
        generation if isinstance(generation, int) else None,
        active.get("actual") if isinstance(active, dict) else None,
        why,
    )


def _state(
    status: dict[str, Any], conditions: dict[str, dict[str, Any]], has: str | None, wanted: str | None
) -> tuple[State, str]:
    ready, synced = conditions.get("Ready", {}), conditions.get("Synced", {})
    if ready.get("status") != "True":
        return "down", _why(ready)
    if synced.get("status") != "True":
        return "lagging", _why(synced)
    if wanted is not None and (has is None or not has.startswith(wanted)):
        return "lagging", f"it has {(has or 'nothing')[:12]}, not {wanted[:12]}"
    if status["summary"] == "Ready":
        return "fine", ""
    degraded = conditions.get("Degraded", {})
    return "degraded", _why(degraded) if degraded.get("status") == "True" else str(status["summary"])


def _conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = status.get("conditions")
    rows = found if isinstance(found, list) else []
    return {str(row.get("type")): row for row in rows if isinstance(row, dict)}


def _why(condition: dict[str, Any]) -> str:
    return str(condition.get("message") or condition.get("reason") or "it does not say why")
