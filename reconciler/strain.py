"""The strain the machine is under, as part of what is desired: what `pressure` and `guard` have found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from reconciler.guard import Guard
from reconciler.pressure import Pressure


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Strain:
    """guards: by model; a model without one is inside its service levels.

    returning: models that left for want of memory and are not back yet -> own_digest of the form that left.
    allowed: what each engine may use, bytes. Of an allowance that was lowered: the one before, until the
    engine has come down to the new one, for requests that run were let in under that.
    own_bytes: what the appliance's own process takes, rounded so that it seldom moves.
    """

    pressure: Pressure = field(default_factory=Pressure)
    guards: Mapping[str, Guard] = field(default_factory=_empty)
    returning: Mapping[str, str] = field(default_factory=_empty)
    allowed: Mapping[str, int] = field(default_factory=_empty)
    own_bytes: int = 0

    def out(self, model: str) -> bool:
        """It was taken out of memory by a step that is in force."""
        return model == self.pressure.unloaded or model in self.pressure.shed

    @property
    def steps(self) -> tuple[str, ...]:
        return self.pressure.steps

    @property
    def eased(self) -> bool:
        """Nothing has to be watched more closely than usual."""
        found = self.pressure
        guarded = any(guard.stage for guard in self.guards.values())
        return found.level == "normal" and not (found.steps or found.hot or guarded or found.runaway)
