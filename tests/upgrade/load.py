"""Clients that forgive nothing: every refused connection, reset and cut stream is counted.

Half of them open a connection for each request, half keep theirs until the server says `Connection: close`,
and one speaks WebSocket. They retry nothing: what happens on the wire is the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

TOKENS = 48
LONG_S = 2.0  # of silence on a connection that is kept
WS_RESTART = 1012


class Load:
    """done: answers, by kind of client. errors: what went wrong, in words. pace_s: the usual pause."""

    def __init__(self, port: int, streams: int, *, pace_s: float = 0.1, seed: int = 1) -> None:
        self._port, self._streams, self._seed, self._pace_s = port, streams, seed, pace_s
        self.done: Counter[str] = Counter()
        self.errors: list[str] = []
        self._stop = threading.Event()

    async def _run(self) -> None:
        kinds = [self._fresh, self._keeping]
        rng = random.Random(self._seed)
        tasks = [asyncio.create_task(kinds[n % 2](random.Random(rng.random()))) for n in range(self._streams)]
        tasks.append(asyncio.create_task(self._socket()))
        await asyncio.gather(*tasks)

    def _body(self, text: str) -> bytes:
        return json.dumps(
            {"messages": [{"role": "user", "content": text}], "stream": True, "max_tokens": TOKENS}
        ).encode()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> bool:
        """One streamed chat. Whether the connection lives on."""
        body = self._body(text)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if not answer.startswith("http/1.1 200"):
            rest = await asyncio.wait_for(reader.read(2000), 5)
            raise ValueError(f"{answer.splitlines()[0]} {rest[:300]!r}")
        whole = b""
        while True:
            size = int((await reader.readuntil(b"\r\n")).strip(), 16)
            part = await reader.readexactly(size + 2)
            if size == 0:
                break
            whole += part[:-2]
        if b"data: [DONE]" not in whole or b'"error"' in whole:
            raise ValueError(f"a stream that does not end well: {whole[-300:]!r}")
        return "connection: close" not in answer

    async def _fresh(self, rng: random.Random) -> None:
        while not self._stop.is_set():
            with self._counted("fresh"):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
                try:
                    await self._one(reader, writer, f"fresh {rng.random()}")
                finally:
                    writer.close()
            await asyncio.sleep(rng.random() * self._pace_s)

    async def _keeping(self, rng: random.Random) -> None:
        """Silent for up to two seconds between two requests, and sure that the connection is still there."""
        while not self._stop.is_set():
            with self._counted("connections"):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
                try:
                    lives = True
                    while lives and not self._stop.is_set():
                        lives = await self._one(reader, writer, f"keeping {rng.random()}")
                        self.done["keeping"] += 1
                        await asyncio.sleep(
                            rng.random() * rng.choice((self._pace_s, self._pace_s, 2.0)) if lives else 0
                        )
                finally:
                    writer.close()

    async def _socket(self) -> None:
        number = 0
        while not self._stop.is_set():
            with self._counted("sockets"):
                async with connect(
                    f"ws://127.0.0.1:{self._port}/v1/ws", proxy=None, open_timeout=None, ping_timeout=None
                ) as ws:
                    while not self._stop.is_set():
                        number += 1
                        chat = {"id": str(number), "messages": [{"role": "user", "content": f"ws {number}"}]}
                        try:
                            await ws.send(json.dumps({**chat, "max_tokens": TOKENS}))
                            kind = await _told(ws)
                        except ConnectionClosed as closed:
                            if closed.rcvd is None or closed.rcvd.code != WS_RESTART:
                                raise
                            break  # told to connect again; a chat that was never begun is no loss
                        if kind == "close":
                            await ws.wait_closed()
                            break
                        self.done["ws"] += 1
                        await asyncio.sleep(self._pace_s)

    @contextlib.contextmanager
    def _counted(self, kind: str) -> Iterator[None]:
        try:
            yield
            self.done[kind] += 1
        except (OSError, EOFError, ValueError, ConnectionClosed) as error:
            self.errors.append(f"{kind}: {type(error).__name__}: {error}")

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join(60)
            assert not thread.is_alive()


async def _told(ws: object) -> str:
    """How a chat ended: done, or close where the server takes nothing new on this socket."""
    begun = False
    try:
        async for text in ws:  # type: ignore[attr-defined]
            message = json.loads(text)
            kind = message.get("type")
            if kind == "done":
                return "done"
            if kind == "error":
                if not begun and message["error"]["code"] == "overloaded":
                    return "close"
                raise ValueError(f"ws: {message}")
            begun = True
    except ConnectionClosed as closed:
        if begun:
            raise ValueError(f"ws: closed in the middle of an answer: {closed}") from closed
        raise
    if begun:
        raise ValueError("ws: closed in the middle of an answer")
    return "close"
