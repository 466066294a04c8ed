"""The strain the machine is under, as part of what is desired: what `pressure` and `guard` have found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from reconciler.guard import Guard
from reconciler.pressure import Pressure


@dataclass(frozen=True)
class Strain:
    """guards: by model; a model without one is inside its service levels."""

    pressure: Pressure = field(default_factory=Pressure)
    guards: Mapping[str, Guard] = field(default_factory=lambda: MappingProxyType({}))
