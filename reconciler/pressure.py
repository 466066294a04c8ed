"""Readings over time -> step of the degradation ladder, with hysteresis. Pure.

docs/degradation.md has the states and the rules in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reconciler import names
from reconciler.readings import Level, Reading
from reconciler.spec import Spec
from reconciler.units import Share


@dataclass(frozen=True)
class Policy:
    """The part of the spec that the ladder depends on. Seconds, and shares of the budget."""

    warning: Share
    critical: Share
    recover: Share
    dwell: float = 10.0
    ladder: tuple[str, ...] = names.LADDER
    hot: str = "heavy"  # thermal.enter
    cool: str = "moderate"  # thermal.leave

    @classmethod
    def of(cls, spec: Spec) -> Policy:
        memory, thermal = spec.memory, spec.thermal
        return cls(
            memory.warning, memory.critical, memory.recover, memory.dwell, memory.ladder,
            thermal.enter, thermal.leave,
        )  # fmt: skip


@dataclass(frozen=True)
class Pressure:
    """What is in force. Times on the clock of the readings.

    steps: a beginning of the ladder, in order. shed: models out of memory for `shed`, first one first.
    unloaded: the active model that `unload` ended. runaway: engines that must be ended at once.
    returns_at: the unloaded model may not come back before. why: one sentence with figures, for people.
    """

    level: Level = "normal"
    cause: Literal["", "ours", "others"] = ""
    steps: tuple[str, ...] = ()
    shed: tuple[str, ...] = ()
    unloaded: str | None = None
    runaway: tuple[str, ...] = ()
    hot: bool = False
    heat: str | None = None
    why: str = ""
    since: float = 0.0  # the last change of steps, shed or unloaded
    calm_since: float | None = None  # below `recover` without a break since then
    cool_since: float | None = None
    unloads: tuple[float, ...] = ()  # when, within the last hour
    returns_at: float = 0.0
    read_at: float = 0.0  # of the newest reading taken up

    @property
    def step(self) -> str | None:
        """The furthest step in force."""
        return self.steps[-1] if self.steps else None


def advance(before: Pressure, reading: Reading, policy: Policy) -> Pressure:
    """One reading later. The same readings give the same states, whoever asks.

    A reading that is not newer than the last one changes nothing.
    """
    return before
