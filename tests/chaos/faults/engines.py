"""What can happen to an engine."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import psutil

from appliance.host import platform
from tests.chaos.appliance import BUDGET_MIB, MIB, Appliance
from tests.chaos.faults.base import Fault
from tests.chaos.wiretap import inject

BUDGET_BYTES = BUDGET_MIB * MIB


@dataclass
class Signalled(Fault):
    """An engine dies by a signal."""

    pick: int

    number: ClassVar[signal.Signals]

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(0.2, random_.randrange(8))

    async def begin(self, appliance: Appliance) -> None:
        appliance.an_engine(self.pick).send_signal(self.number)


class Killed(Signalled):
    kind = "engine killed"
    number = signal.SIGKILL


class Aborted(Signalled):
    """As Metal ends a process that is out of memory."""

    kind = "engine aborted"
    number = signal.SIGABRT


@dataclass
class Stopped(Fault):
    """Scheduled no more for a while; longer than the deadline, it is a hang."""

    pick: int
    process: psutil.Process | None = field(default=None, compare=False, repr=False)

    kind: ClassVar[str] = "engine stopped"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.choice((0.3, 2.0, 8.0)), random_.randrange(8))

    async def begin(self, appliance: Appliance) -> None:
        self.process = appliance.an_engine(self.pick)
        self.process.send_signal(signal.SIGSTOP)

    async def end(self, appliance: Appliance) -> None:
        if self.process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):  # found to hang, and killed
                self.process.send_signal(signal.SIGCONT)


@dataclass
class Faulty(Fault):
    """What the engine itself does wrong; `faults` as tests.engine.faulty has them."""

    pick: int
    faults: dict[str, Any]

    lane: ClassVar[str] = "engine"

    async def begin(self, appliance: Appliance) -> None:
        pid = appliance.an_engine(self.pick).pid
        appliance.control("engine.json", {"pid": pid, **self.faults})

    async def end(self, appliance: Appliance) -> None:
        appliance.control("engine.json", None)


class Slow(Faulty):
    kind = "engine slow"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(2, 5), random_.randrange(8), {"sleep": random_.uniform(0.02, 0.3)})


class Exits(Faulty):
    kind = "engine exits"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(0.3, random_.randrange(8), {"exit": random_.choice((0, 1, 7, 10, 12, 13, 21, 255))})


class Silent(Faulty):
    """No more beats: a hang as soon as nothing else comes either."""

    kind = "engine silent"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.choice((2.0, 8.0)), random_.randrange(8), {"silent": True})


class HalfFrame(Faulty):
    kind = "half a frame"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(0.5, random_.randrange(8), {"half": True})


class Hangs(Faulty):
    """Computes no more, and beats on."""

    kind = "engine hangs"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(1.0, random_.randrange(8), {"hang": "decode"})


@dataclass
class Allocates(Faulty):
    """Takes memory without end. It must be ended by LMX: what is left of it at our own end is a failure."""

    pid: int = field(default=0, compare=False)
    survived: bool = field(default=False, compare=False)

    kind: ClassVar[str] = "engine allocates"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        rate, how = random_.choice((150, 400)), random_.choice(("bytes", "mlx"))
        return cls(12.0, random_.randrange(8), {"allocate": rate, "kind": how})

    async def begin(self, appliance: Appliance) -> None:
        self.pid = appliance.an_engine(self.pick).pid
        appliance.control("engine.json", {"pid": self.pid, **self.faults})

    def over(self) -> bool:
        return not psutil.pid_exists(self.pid)

    async def end(self, appliance: Appliance) -> None:
        await super().end(appliance)
        if not self.over():
            # One that was still loading on a busy computer may not have come to it.
            self.survived = platform().footprint(self.pid) >= BUDGET_BYTES
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


@dataclass
class Garbage(Fault):
    """Bytes that are no message, written into the engine's end of its socket."""

    pick: int
    data: bytes

    kind: ClassVar[str] = "garbage frame"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        noise = random_.randbytes(random_.randrange(1, 64))
        data = random_.choice(
            (
                noise,
                b"\xff\xff\xff\xff" + noise,  # a frame of 4 GiB
                b"\x05\x00\x00\x00\x81\xa1t\xa1?",  # a message of no known type
                b"\x00\x00\x00\x00" * 8,  # empty frames
            )
        )
        return cls(0.2, random_.randrange(8), data)

    async def begin(self, appliance: Appliance) -> None:
        inject(appliance.an_engine(self.pick), self.data)


KINDS = (Killed, Aborted, Stopped, Slow, Exits, Silent, HalfFrame, Garbage, Hangs, Allocates)
