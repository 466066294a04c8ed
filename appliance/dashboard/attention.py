"""What a person should look at: the worst first, with the reason and since when. Pure.

Silence is the message that all is well, so nothing ordinary is said here: no swap on its way, no cache that
warms up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["critical", "warning", "notice"]


@dataclass(frozen=True)
class Attention:
    """what: a few words. why: the condition's own. since: wall clock, seconds; None: not known."""

    level: Level
    what: str
    why: str
    since: float | None


# type of condition: (the status that is told, how loud, what it means)
_TOLD: dict[str, tuple[str, Level, str]] = {
    "Ready": ("False", "critical", "The active model does not answer"),
    "Stalled": ("True", "critical", "Something cannot be done without you"),
    "ConfigAccepted": ("False", "warning", "The newest file is refused; the one before is served"),
    "SourceReady": ("False", "warning", "The file or repository is not followed"),
    "KeysReady": ("False", "warning", "The API keys cannot be read; the ones before hold"),
    "Degraded": ("True", "warning", "Less is served than should be"),
    "MemoryPressure": ("True", "warning", "Memory is short"),
    "ThermalPressure": ("True", "warning", "The machine is hot"),
    "CacheReady": ("False", "warning", "The prompt cache on disk is off"),
    "SourceVerified": ("False", "warning", "The source's signature is not accepted"),
    "Suspended": ("True", "notice", "Suspended: edits are read, and nothing is changed"),
    "Overridden": ("True", "notice", "An admin call holds against the file"),
}
# What is as it should be where it is so; all other words are neither good nor bad.
_GOOD = {"Synced": "True", "Reconciling": "False"} | {
    kind: "False" if status == "True" else "True" for kind, (status, _, _) in _TOLD.items()
}
_LOUDNESS: dict[Level, int] = {"critical": 0, "warning": 1, "notice": 2}


def attention(status: Mapping[str, Any]) -> list[Attention]:
    """From a status document."""
    found = []
    conditions = {one["type"]: one for one in status["conditions"]}
    said = {one["message"] for kind, one in conditions.items() if kind != "Stalled" and told(one)}
    for kind, one in conditions.items():
        if kind == "Stalled" and one["message"] in said:
            continue  # what stalls it has a name of its own
        if told(one):
            _, level, what = _TOLD[kind]
            if kind == "Overridden" and status.get("try"):
                what = _tried(status["try"])
            found.append(Attention(level, what, one["message"] or one["reason"], one["last_transition"]))
    if out_of_sync(conditions):
        one = conditions["Synced"]
        found.append(
            Attention(
                "warning", "What runs is not what the file says", one["message"], one["last_transition"]
            )
        )
    for name, model in status["models"].items():
        if model["state"] == "quarantined" and name != status["active"]["desired"]:
            found.append(
                Attention("warning", f"{name} is in quarantine", model["reason"] or "", model["since"])
            )
    for name, breaker in status["breakers"].items():
        if breaker["state"] == "open":
            found.append(Attention("warning", f"{name} is left alone for now", breaker["why"], None))
    return sorted(found, key=lambda one: _LOUDNESS[one.level])


def _tried(found: Mapping[str, Any]) -> str:
    """In whole minutes: a countdown by the second would be read out each second."""
    left = found["left_s"]
    if left is None:
        return "A spec is tried, and kept until the file changes"
    return f"A spec is tried: {max(1, math.ceil(left / 60))} min left at most"


def told(condition: Mapping[str, Any]) -> bool:
    """Whether a person should look at it."""
    known = _TOLD.get(condition["type"])
    return known is not None and condition["status"] == known[0]


def good(condition: Mapping[str, Any]) -> bool:
    return bool(condition["status"] == _GOOD.get(condition["type"]))


def out_of_sync(conditions: Mapping[str, Mapping[str, Any]]) -> bool:
    """And nothing on its way to mend it, nor said already by a louder condition."""
    synced = conditions.get("Synced")
    if synced is None or synced["status"] != "False":
        return False
    if synced["reason"] == "Trying":
        return False  # Overridden tells of it
    said = {"Reconciling": "True", "Stalled": "True", "ConfigAccepted": "False", "Ready": "False"}
    return not any(conditions.get(kind, {}).get("status") == status for kind, status in said.items())
