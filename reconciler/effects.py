"""The seam: everything the loop can see of the world and do to it.

The real one is `appliance/effects.py`; tests put a fake world here, and nowhere deeper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from reconciler.actions import Action
from reconciler.observed import Observed
from reconciler.spec import Model, Spec


class Effects(Protocol):
    def now(self) -> float:
        """Seconds on a clock that never goes back."""

    async def observe(self, spec: Spec, models: Mapping[str, Model]) -> Observed:
        """Measure the world. `models` maps Model.digest to the models whose files are of interest.

        `Observed.now` is when that was: what has been begun before it, shows in it.
        """

    async def act(self, action: Action, spec: Spec, model: Model | None) -> None:
        """Begin the action and return. Never waits for a load, a download or a drain.

        Whatever goes wrong in the world shows in the next observation, not as an exception here.
        """
