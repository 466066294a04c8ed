"""What the loop keeps over a restart of the appliance, and where it puts it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from reconciler.backoff import Ledger
from reconciler.events import Event
from reconciler.gate import Accepted
from reconciler.known import Known
from reconciler.observed import OverrideObs


class Store(Protocol):
    """Where the loop writes; `history.History` is the real one."""

    def add_event(self, event: Event) -> Event: ...
    def save_ledger(self, ledger: Ledger, offset: float) -> None: ...
    def save_overrides(self, overrides: tuple[OverrideObs, ...]) -> None: ...
    def accepted(self, accepted: Accepted, at: float) -> None: ...
    def applied(self, generation: int, at: float) -> None: ...


@dataclass(frozen=True)
class Memory:
    """What an earlier run left: empty on the first start."""

    accepted: Accepted | None = None  # in force, if the file cannot be used
    good: Accepted | None = None  # the newest that reached Ready
    good_at: float | None = None  # when it did, wall clock
    generation: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    overrides: tuple[OverrideObs, ...] = ()
    known: Known | None = None  # None: what `good` says
    held: Accepted | None = None  # in force when `suspend` became true
