"""Which events belong to one story: of a model, of a kind, since a moment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.cli.client import Appliance
from appliance.cli.failure import CliError

# The machine's own troubles: part of every model's story, whether or not they name a model.
SHARED = frozenset({"Started", "Stopped", "Pressure", "StepTaken", "StepUndone", "Thermal"})


@dataclass(frozen=True)
class Filter:
    """Empty lets everything through. types: in lower case. since: wall clock, seconds."""

    model: str | None = None
    types: frozenset[str] = frozenset()
    since: float | None = None

    @property
    def empty(self) -> bool:
        return self == Filter()

    def takes(self, event: Mapping[str, Any]) -> bool:
        if self.since is not None and float(event.get("at") or 0.0) < self.since:
            return False
        if self.types and str(event.get("type", "")).lower() not in self.types:
            return False
        return self.model is None or concerns(event, self.model)


def concerns(event: Mapping[str, Any], model: str) -> bool:
    """The event names the model or an engine of it, or is the whole machine's."""
    data = event.get("data") or {}
    if data.get("model") is not None:
        return bool(data["model"] == model)
    if event.get("type") in SHARED:
        return True
    engine = re.compile(rf"{re.escape(model)}-[0-9]+")
    named = (data.get(key) for key in ("subject", "engine", "instead_of"))
    return any(isinstance(name, str) and (name == model or engine.fullmatch(name)) for name in named)


def kinds(types: list[str] | None) -> frozenset[str]:
    """The types as `--type` gives them, in any case. Raises CliError for one that does not exist."""
    from reconciler.events import EventType

    known = {kind.value.lower() for kind in EventType}
    wanted = frozenset(name.strip().lower() for given in types or () for name in given.split(","))
    unknown = sorted(wanted - known)
    if unknown:
        names = ", ".join(kind.value for kind in EventType)
        raise CliError(f"there is no event type {unknown[0]!r}. The types are: {names}.")
    return wanted


def stored(appliance: Appliance, status: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the appliance keeps, oldest first: the newest thousand. status: says where the end is."""
    recent = status.get("events") or []
    if not recent:
        return
    end = int(recent[-1]["id"])
    for event in appliance.events("/admin/events", headers={"last-event-id": "0"}):
        data = json.loads(event.data)
        if not event.id.isdecimal():  # telemetry
            continue
        yield {"type": event.type, **data}
        if int(event.id) >= end:
            return
