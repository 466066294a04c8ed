"""A WebSocket client for tests, and frames made by hand for what it would not send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.server import raw

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


class Talk:
    """What is read is sorted by id; what has none lies under ""."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.read: dict[str, list[dict[str, Any]]] = {}

    async def say(self, message: Any) -> None:
        await self.socket.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def chat(self, id: str, **body: Any) -> None:
        await self.say({"id": id, **HELLO, **body})

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(30):
            text = await self.socket.recv()
        assert isinstance(text, str)
        message: dict[str, Any] = json.loads(text)
        self.read.setdefault(message.get("id") or "", []).append(message)
        return message

    async def until(self, id: str | None, kind: str) -> dict[str, Any]:
        """The next message of this type with this id; `done`, `cancelled` and `error` end a chat."""
        while True:
            message = await self.next()
            if message.get("type") == kind and message.get("id") == id:
                return message

    async def all_done(self, ids: Sequence[str]) -> dict[str, str]:
        """id -> its text, once each has ended with `done`."""
        left = set(ids)
        while left:
            message = await self.next()
            assert message.get("type") in (None, "done"), message
            if message.get("type") == "done":
                left.remove(message["id"])
        return {id: self.text(id) for id in ids}

    def text(self, id: str) -> str:
        return "".join(
            choice["delta"].get("content") or ""
            for chunk in self.read[id]
            for choice in chunk.get("choices", ())
        )


@contextlib.asynccontextmanager
async def talk(port: int, **options: Any) -> AsyncIterator[Talk]:
    async with connect(f"ws://127.0.0.1:{port}/v1/ws", proxy=None, max_size=None, **options) as socket:
        yield Talk(socket)


HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


@contextlib.asynccontextmanager
async def by_hand(port: int, *headers: str) -> AsyncIterator[raw.Line]:
    """A connection whose handshake is over."""
    async with raw.connect(port) as line:
        await line.send(raw.get("/v1/ws", *HANDSHAKE, *headers))
        status, answer = await line.head()
        assert status == 101
        assert answer["sec-websocket-accept"]
        yield line


def frame(
    data: bytes, opcode: int = 1, *, fin: bool = True, masked: bool = True, length: int | None = None
) -> bytes:
    """A client's frame. length: what it says it has, if not the truth."""
    size = len(data) if length is None else length
    mask = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        head += bytes([mask | size])
    elif size < 65_536:
        head += bytes([mask | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mask | 127]) + struct.pack("!Q", size)
    return head + (b"\0\0\0\0" if masked else b"") + data


async def server_frame(line: raw.Line) -> tuple[int, bytes]:
    """(opcode, payload) of the next frame that the server sends."""
    async with asyncio.timeout(10):
        first, second = await line.reader.readexactly(2)
        size = second & 0x7F
        if size == 126:
            size = struct.unpack("!H", await line.reader.readexactly(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", await line.reader.readexactly(8))[0]
        return first & 0x0F, await line.reader.readexactly(size)


async def closed(line: raw.Line) -> int:
    """The code of the close frame that comes next, and then the end of the connection."""
    while True:
        opcode, data = await server_frame(line)
        if opcode == 8:
            break
    assert await line.ended() == b""
    return int.from_bytes(data[:2], "big")
