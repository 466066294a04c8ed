"""Clients that vanish, dawdle, shout or say nothing. None of them is part of the steady load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from dataclasses import dataclass, field
from typing import ClassVar, Self

from tests.chaos.appliance import Appliance
from tests.chaos.faults.base import Fault

BODY = json.dumps(
    {
        "messages": [{"role": "user", "content": "Count from one to one hundred."}],
        "max_tokens": 256,
        "stream": True,
    }
).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


@dataclass
class Connections(Fault):
    """Holds sockets from its beginning to its end."""

    count: int
    held: list[socket.socket] = field(default_factory=list, compare=False, repr=False)

    async def connect(self, appliance: Appliance, small: bool = False) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(self.count):
            sock = socket.socket()
            self.held.append(sock)
            sock.setblocking(False)
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            with contextlib.suppress(ConnectionError):
                await loop.sock_connect(sock, ("127.0.0.1", appliance.port))

    def say(self, data: bytes) -> None:
        for sock in self.held:
            with contextlib.suppress(OSError):  # full, or hung up: both are the server's good right
                sock.send(data)

    async def end(self, appliance: Appliance) -> None:
        for sock in self.held:
            sock.close()
        self.held.clear()


@dataclass
class Vanish(Connections):
    """They ask for a stream and are gone in the middle of it, some by a reset."""

    kind: ClassVar[str] = "clients vanish"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(0.01, 0.5), random_.choice((1, 8, 30)))

    async def begin(self, appliance: Appliance) -> None:
        await self.connect(appliance)
        self.say(REQUEST)

    async def end(self, appliance: Appliance) -> None:
        for number, sock in enumerate(self.held):
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await super().end(appliance)


@dataclass
class Dawdle(Connections):
    """They read a byte a second."""

    task: asyncio.Task[None] | None = field(default=None, compare=False, repr=False)

    kind: ClassVar[str] = "clients read slowly"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(2, 6), random_.choice((1, 4, 10)))

    async def begin(self, appliance: Appliance) -> None:
        await self.connect(appliance, small=True)
        self.say(REQUEST)
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for sock in self.held:
                with contextlib.suppress(OSError):
                    sock.recv(1)

    async def end(self, appliance: Appliance) -> None:
        if self.task is not None:
            self.task.cancel()
        await super().end(appliance)


@dataclass
class SlowHeads(Connections):
    """Slow loris: a head that never ends, a byte now and then."""

    task: asyncio.Task[None] | None = field(default=None, compare=False, repr=False)

    kind: ClassVar[str] = "slow heads"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(1, 4), random_.choice((20, 200)))

    async def begin(self, appliance: Appliance) -> None:
        await self.connect(appliance)
        self.say(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
        self.task = asyncio.create_task(self._drip())

    async def _drip(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self.say(b"X-A: b\r\n")

    async def end(self, appliance: Appliance) -> None:
        if self.task is not None:
            self.task.cancel()
        await super().end(appliance)


@dataclass
class Idle(Connections):
    kind: ClassVar[str] = "idle connections"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(1, 3), random_.choice((100, 500)))

    async def begin(self, appliance: Appliance) -> None:
        await self.connect(appliance)


@dataclass
class Junk(Connections):
    """What is no HTTP, or too much of it."""

    data: bytes = b""

    kind: ClassVar[str] = "junk requests"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        data = random_.choice(
            (
                random_.randbytes(512),
                b"GET / HTTP/1.1\r\n" + b"X-Flood: 1\r\n" * 5000,
                HEAD + b"Content-Length: 99999999999\r\n\r\n",
                HEAD + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n",
                HEAD + b"Content-Length: 10\r\n\r\n" + b"{" * 10,
                b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            )
        )
        return cls(0.3, 10, data=data)

    async def begin(self, appliance: Appliance) -> None:
        await self.connect(appliance)
        self.say(self.data)


@dataclass
class Burst(Connections):
    """Far more requests at once than there are rows and places in the queue."""

    kind: ClassVar[str] = "burst"

    @classmethod
    def draw(cls, random_: random.Random) -> Self:
        return cls(random_.uniform(0.5, 2), random_.choice((100, 300)))

    async def begin(self, appliance: Appliance) -> None:
        await self.connect(appliance)
        self.say(REQUEST)


KINDS = (Vanish, Dawdle, SlowHeads, Idle, Junk, Burst)
