"""What every fault has: a kind, parameters that were drawn from the seed, a beginning and an end."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

from tests.chaos.appliance import Appliance


@dataclass
class Fault(ABC):
    """seconds: between beginning and end. lane: faults of one lane do not overlap, as they would undo
    each other."""

    seconds: float

    kind: ClassVar[str]
    lane: ClassVar[str] = ""

    @classmethod
    @abstractmethod
    def draw(cls, random_: random.Random) -> Self:
        """One with parameters by chance; the same from the same `random_`."""

    @abstractmethod
    async def begin(self, appliance: Appliance) -> None:
        """Raises Missed where there is nothing to hit."""

    async def end(self, appliance: Appliance) -> None:
        """Put everything back that was changed. Called whatever happened since."""
        return None
