"""What people and programs do to lmx.yaml, and to the process by signals."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from dataclasses import dataclass, field
from typing import ClassVar, Self

from tests.chaos.appliance import Appliance
from tests.chaos.faults.base import Fault


@dataclass
class SmallBudget(Fault):
    """Less than what runs needs, or just enough for one of two."""

    mib: int

    kind: ClassVar[str] = "budget lowered"
    lane: ClassVar[str] = "budget"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(1, 5), random_.choice((64, 150, 300, 450)))

    async def begin(self, appliance: Appliance) -> None:
        appliance.lay("budget", memory={"budget": f"{self.mib}MiB"})

    async def end(self, appliance: Appliance) -> None:
        appliance.lift("budget")


INVALID: tuple[bytes, ...] = (
    b"",
    b"version: 1\nactive: [demo\n",
    b"\x00\xff\xfe\x00" * 100,
    b"version: 1\nactive: demo\nmodles: {}\n",
    b"version: 7\nactive: null\nmodels: {}\n",
    b"version: 1\nactive: nobody\nmodels: {}\n",
    b"a: &a [*a, *a]\n",
    b"{" * 5000,
    b"version: 1\nactive: demo\nactive: mini\nmodels: {}\n",
)


@dataclass
class InvalidEdit(Fault):
    """Nothing that can be taken for a spec."""

    data: bytes

    kind: ClassVar[str] = "invalid edit"
    lane: ClassVar[str] = "file"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(0.1, 2), random_.choice(INVALID))

    async def begin(self, appliance: Appliance) -> None:
        appliance.write(self.data)

    async def end(self, appliance: Appliance) -> None:
        appliance.save()


@dataclass
class ImpossibleModel(Fault):
    """A valid spec whose active model cannot be: no files, or far more context than the machine holds."""

    what: str

    kind: ClassVar[str] = "impossible model"
    lane: ClassVar[str] = "file"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(0.5, 3), random_.choice(("no files", "too big")))

    async def begin(self, appliance: Appliance) -> None:
        demo = appliance.usual()["models"]["demo"]
        changed = (
            {**demo, "source": "./nothing-here"}
            if self.what == "no files"
            else {**demo, "context": 100_000_000}
        )
        appliance.lay("impossible", models={"demo": changed})

    async def end(self, appliance: Appliance) -> None:
        appliance.lift("impossible")


@dataclass
class FileGone(Fault):
    kind: ClassVar[str] = "file gone"
    lane: ClassVar[str] = "file"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(0.1, 2))

    async def begin(self, appliance: Appliance) -> None:
        appliance.file.unlink(missing_ok=True)

    async def end(self, appliance: Appliance) -> None:
        appliance.save()


@dataclass
class Flips(Fault):
    """Saves that overtake each other's loads: the active model back and forth."""

    pauses: tuple[float, ...]

    kind: ClassVar[str] = "edits during loads"
    lane: ClassVar[str] = "file"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(0.1, tuple(random_.uniform(0, 0.8) for _ in range(random_.randrange(2, 7))))

    async def begin(self, appliance: Appliance) -> None:
        for number, pause in enumerate(self.pauses):
            appliance.lay("flip", active=("mini", "demo")[number % 2])
            await asyncio.sleep(pause)

    async def end(self, appliance: Appliance) -> None:
        appliance.lift("flip")


@dataclass
class PortTaken(Fault):
    """An edit moves to a port that another program holds: the old address must stay."""

    holder: socket.socket | None = field(default=None, compare=False, repr=False)

    kind: ClassVar[str] = "port taken"
    lane: ClassVar[str] = "file"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(0.5, 3))

    async def begin(self, appliance: Appliance) -> None:
        self.holder = socket.create_server(("127.0.0.1", 0))
        appliance.lay("port", server={"port": self.holder.getsockname()[1]})

    async def end(self, appliance: Appliance) -> None:
        assert self.holder is not None
        appliance.lift("port")
        await asyncio.sleep(0.5)  # seen before the other program lets go: it must never move there
        self.holder.close()


@dataclass
class Hangups(Fault):
    """SIGHUP again and again."""

    count: int

    kind: ClassVar[str] = "SIGHUP storm"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(0.1, random_.choice((20, 200, 1000)))

    async def begin(self, appliance: Appliance) -> None:
        pid = appliance.parent().pid
        for number in range(self.count):
            os.kill(pid, signal.SIGHUP)
            if number % 10 == 0:
                await asyncio.sleep(0.005)


KINDS = (SmallBudget, InvalidEdit, ImpossibleModel, FileGone, Flips, PortTaken, Hangups)
