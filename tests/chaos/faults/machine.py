"""What can happen to the machine around: memory that others take, heat, pressure, a clock that jumps."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from dataclasses import dataclass, field
from typing import ClassVar, Self

from tests.chaos.appliance import Appliance
from tests.chaos.faults.base import Fault

_HOG = """
import sys, time
held = bytearray(b"\\x01") * (int(sys.argv[1]) << 20)  # every page is written to
print(len(held), flush=True)
time.sleep(600)
"""


@dataclass
class Hog(Fault):
    """Another program takes memory, and keeps it for a while."""

    mib: int
    process: subprocess.Popen[bytes] | None = field(default=None, compare=False, repr=False)

    kind: ClassVar[str] = "memory hog"
    lane: ClassVar[str] = "memory"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(2, 6), random_.choice((200, 500, 700, 800)))

    async def begin(self, appliance: Appliance) -> None:
        command = [sys.executable, "-c", _HOG, str(self.mib)]
        self.process = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE)
        (appliance.hogs / str(self.process.pid)).touch()

    async def end(self, appliance: Appliance) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()
        (appliance.hogs / str(self.process.pid)).unlink()


@dataclass
class Heat(Fault):
    level: str

    kind: ClassVar[str] = "heat"
    lane: ClassVar[str] = "heat"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(1, 4), random_.choice(("moderate", "heavy", "trapping")))

    async def begin(self, appliance: Appliance) -> None:
        appliance.control("heat", self.level)

    async def end(self, appliance: Appliance) -> None:
        appliance.control("heat", None)


@dataclass
class SystemPressure(Fault):
    """The system itself says that memory is short."""

    level: str

    kind: ClassVar[str] = "system pressure"
    lane: ClassVar[str] = "pressure"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(0.5, 4), random_.choice(("warning", "critical")))

    async def begin(self, appliance: Appliance) -> None:
        appliance.control("pressure", self.level)

    async def end(self, appliance: Appliance) -> None:
        appliance.control("pressure", None)


@dataclass
class ClockJump(Fault):
    """The wall clock is set; then it is set right again."""

    off: float

    kind: ClassVar[str] = "clock jump"
    lane: ClassVar[str] = "clock"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        hour = 3600.0
        return cls(
            random_.uniform(0.5, 3),
            random_.choice((-365 * 24 * hour, -hour, -5.0, 5.0, hour, 3650 * 24 * hour)),
        )

    async def begin(self, appliance: Appliance) -> None:
        appliance.control("clock", str(self.off))

    async def end(self, appliance: Appliance) -> None:
        appliance.control("clock", None)


KINDS = (Hog, Heat, SystemPressure, ClockJump)
