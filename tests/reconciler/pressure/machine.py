"""A machine in numbers: readings one after the other, and what the policy made of each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reconciler.pressure import Policy, Pressure, advance
from reconciler.pressure_events import Change, changes
from reconciler.readings import EngineReading, Reading
from reconciler.units import Share

MIB = 2**20
BUDGET = 1000 * MIB
POLICY = Policy(warning=Share(0.85), critical=Share(0.9), recover=Share(0.8))
CALM, GAP, WARNING, CRITICAL = 500, 820, 860, 910  # MiB of use against that policy


def engine(name: str, memory: int = 100, allowed: int | None = None, **more: Any) -> EngineReading:
    """An engine of the model `name`, sizes in MiB; its id is `e-NAME`. Let in for what it uses."""
    more.setdefault("id", f"e-{name}")
    allowed = memory if allowed is None else allowed
    return EngineReading(model=name, memory_bytes=memory * MIB, allowed_bytes=allowed * MIB, **more)


class Machine:
    """Feeds readings, remembers the states and the events."""

    def __init__(self, policy: Policy = POLICY, **update: Any) -> None:
        self.policy = replace(policy, **update)
        self.engines: tuple[EngineReading, ...] = ()
        self.now = 0.0
        self.state = Pressure()
        self.events: list[Change] = []

    def read(self, used: int, *, after: float = 0.25, **more: Any) -> Pressure:
        """One reading, so many seconds after the last one. `used` in MiB."""
        self.now += after
        more.setdefault("engines", self.engines)
        more.setdefault("budget_bytes", BUDGET)
        reading = Reading(self.now, used_bytes=used * MIB, **more)
        before, self.state = self.state, advance(self.state, reading, self.policy)
        self.events += changes(before, self.state, reading)
        return self.state

    def hold(self, used: int, seconds: float, *, every: float = 0.25, **more: Any) -> Pressure:
        """The same reading again and again for so long."""
        end = self.now + seconds
        while self.now + every <= end + 1e-9:
            self.read(used, after=every, **more)
        return self.state

    def up_to(self, step: str) -> Pressure:
        """Critical until a step is in force."""
        while not self.state.has(step):
            before = self.state
            self.read(CRITICAL)
            assert self.state.steps != before.steps or self.state.shed != before.shed, f"no way up to {step}"
        return self.state

    def told(self, kind: str) -> list[str]:
        return [message for event, message, _ in self.events if event.value == kind]
