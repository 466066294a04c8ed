"""What can happen to the disk, and to the process itself on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import resource
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from tests.chaos.appliance import MIB, Appliance, Missed
from tests.chaos.faults.base import Fault


@dataclass
class FullDisk(Fault):
    """No byte more for state and log: a full disk, or, where we may not mount one, a limit on files."""

    kind: ClassVar[str] = "full disk"
    lane: ClassVar[str] = "disk"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(1, 5))

    async def begin(self, appliance: Appliance) -> None:
        if not appliance.mounted:
            _limit_files(appliance, 1)
            return
        with (appliance.disk / "filler").open("wb", buffering=0) as filler:
            for size in (MIB, 4096, 1):
                with contextlib.suppress(_Full):
                    while True:
                        _write(filler.fileno(), b"\0" * size)

    async def end(self, appliance: Appliance) -> None:
        if not appliance.mounted:
            _limit_files(appliance, resource.RLIM_INFINITY)
            return
        (appliance.disk / "filler").unlink(missing_ok=True)


class _Full(Exception):
    pass


def _write(fd: int, data: bytes) -> None:
    try:
        os.write(fd, data)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _Full from None
        raise


def _limit_files(appliance: Appliance, size: int) -> None:
    """The soft limit only, so that it can be lifted again. New engines start without it."""
    parent = appliance.parent()
    _, hard = parent.rlimit(resource.RLIMIT_FSIZE)
    parent.rlimit(resource.RLIMIT_FSIZE, (size if size != resource.RLIM_INFINITY else hard, hard))


@dataclass
class DamagedDatabase(Fault):
    """Bytes of the state database change under it while it is in use."""

    seed: int

    kind: ClassVar[str] = "state damaged"
    lane: ClassVar[str] = "disk"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(0.2, random_.randrange(2**32))

    async def begin(self, appliance: Appliance) -> None:
        for name in ("history.db", "history.db-wal"):
            damage(appliance.state / name, self.seed)


@dataclass
class DamagedCache(Fault):
    """Files of cached prompts change or are gone: each is a miss, and never a wrong answer."""

    seed: int

    kind: ClassVar[str] = "cache damaged"
    lane: ClassVar[str] = "disk"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(0.2, random_.randrange(2**32))

    async def begin(self, appliance: Appliance) -> None:
        random_ = random.Random(self.seed)
        files = sorted(appliance.cache.rglob("*.safetensors"))
        if not files:
            raise Missed("nothing is cached on disk")
        for path in random_.sample(files, -(-len(files) // 2)):
            with contextlib.suppress(FileNotFoundError):  # an engine deletes files too
                if random_.random() < 0.2:
                    path.unlink()
                else:
                    damage(path, random_.randrange(2**32))


def damage(path: Path, seed: int) -> None:
    random_ = random.Random(seed)
    if not path.exists():
        return
    with path.open("r+b", buffering=0) as file:
        size = path.stat().st_size
        for _ in range(20):
            file.seek(random_.randrange(max(1, size)))
            with contextlib.suppress(OSError):  # the disk may be full at the same time
                file.write(random_.randbytes(random_.choice((1, 16, 512))))


@dataclass
class Asleep(Fault):
    """Everything stops for a while and goes on, as when a lid is closed."""

    kind: ClassVar[str] = "asleep"
    lane: ClassVar[str] = "process"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.choice((1.0, 7.0)))

    async def begin(self, appliance: Appliance) -> None:
        family = [appliance.parent(), *appliance.engines()]
        for process in family:
            process.send_signal(signal.SIGSTOP)

    async def end(self, appliance: Appliance) -> None:
        for process in (*appliance.engines(), appliance.parent()):
            process.send_signal(signal.SIGCONT)


@dataclass
class KilledParent(Fault):
    """LMX itself is killed, and started again as a service manager would."""

    kind: ClassVar[str] = "LMX killed"
    lane: ClassVar[str] = "process"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(0.5)

    async def begin(self, appliance: Appliance) -> None:
        await asyncio.to_thread(appliance.kill)

    async def end(self, appliance: Appliance) -> None:
        await asyncio.to_thread(appliance.up, wait=False)
        await asyncio.to_thread(appliance.until, lambda s: s["active"]["actual"] is not None)


@dataclass
class DamagedWhileDown(Fault):
    """Stopped in good order, its database damaged, and started again."""

    seed: int

    kind: ClassVar[str] = "state damaged while down"
    lane: ClassVar[str] = "process"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(0.1, random_.randrange(2**32))

    async def begin(self, appliance: Appliance) -> None:
        status = await asyncio.to_thread(appliance.stop)
        if status != 0:
            raise AssertionError(f"SIGTERM ended it with {status}\n{appliance.tail()}")
        damage(appliance.state / "history.db", self.seed)

    async def end(self, appliance: Appliance) -> None:
        await asyncio.to_thread(appliance.up, wait=False)
        await asyncio.to_thread(appliance.until, lambda s: s["active"]["actual"] is not None)


KINDS = (FullDisk, DamagedDatabase, DamagedCache)
RESTARTS = (Asleep, KilledParent, DamagedWhileDown)  # they take /healthz away for a while
