"""All kinds of faults. `KINDS` leave the process alone; `RESTARTS` stop or end it on purpose."""

from __future__ import annotations

from tests.chaos.faults import clients, edits, engines, machine, state
from tests.chaos.faults.base import Fault

KINDS: tuple[type[Fault], ...] = (
    *engines.KINDS,
    *machine.KINDS,
    *edits.KINDS,
    *clients.KINDS,
    *state.KINDS,
)
RESTARTS: tuple[type[Fault], ...] = state.RESTARTS

__all__ = ["KINDS", "RESTARTS", "Fault"]
