"""Service levels -> stage of the guardrails, per model, with hysteresis. Pure.

docs/degradation.md has the figures and the stages in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.readings import Service
from reconciler.spec import Slo


@dataclass(frozen=True)
class Guard:
    """One model's service levels.

    stage: 0 inside, 1 back-pressure, 2 shedding, 3 restart. depth: most requests that may wait for it; None:
    as declared. refuse_below: models of lower priority take no new request. recycle: the engine that is to be
    replaced. why: one sentence with the figures that triggered the stage.
    """

    stage: int = 0
    depth: int | None = None
    refuse_below: int | None = None
    recycle: str | None = None
    why: str = ""
    since: float = 0.0
    inside_since: float | None = None
    recycled_at: float | None = None


def advance(before: Mapping[str, Guard], services: Mapping[str, Service], slo: Slo) -> Mapping[str, Guard]:
    """One look later, for all models at once."""
    return before
