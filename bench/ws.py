"""64 chats on one WebSocket against 64 connections with Server-Sent Events, of the same appliance.

Rounds alternate; what is reported is the median of the rounds' ratios. The engine and what it computes are
the same on both sides: what differs is how the parent hands it out. Both clients are of the same make as
`bench.client`: raw sockets, and no JSON once the first text of an answer has come.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import client, models
from bench.client import Result, percentile
from bench.sides import Ours
from bench.speed import Row
from bench.workload import Load, Request

STREAMS = 64
LOAD = Load(STREAMS, 2, (100, 140))
MODEL = "bench"
LIMIT_S = 300.0  # of one side of a round


@dataclass
class Round:
    """cpu: seconds of the parent's processor time."""

    result: Result
    cpu: float

    @property
    def cpu_per_token(self) -> float:
        return self.cpu / self.result.tokens


def run(scratch: Path, rounds: int) -> Iterator[Row]:
    folder = models.make(scratch / "ws", "5m")
    place = scratch / "ws-run"
    place.mkdir()
    ours = Ours(
        folder,
        place,
        models={MODEL: {"source": str(folder), "concurrency": STREAMS}},
        queue={"depth": 2 * STREAMS},
        slo={"ttft_p95": None},  # late first tokens are what is measured, and no reason to refuse any
    )
    try:
        found = [_round(ours, number) for number in range(rounds + 1)][1:]  # the first one warms up
    finally:
        ours.close()

    def ratio(of: str) -> float:
        return statistics.median(_figure(ws, of) / _figure(sse, of) for sse, ws in found)

    for side, index in (("SSE", 0), ("WebSocket", 1)):
        rate = statistics.median(pair[index].result.rate for pair in found)
        yield Row(f"64 chats, {side}: throughput", rate, None, unit="tokens/s")
        cpu = statistics.median(pair[index].cpu_per_token for pair in found) * 1e6
        yield Row(f"64 chats, {side}: processor time of the parent", cpu, None, False, "us/token")
    yield Row("64 chats, WebSocket / SSE: throughput", ratio("rate"), 0.95)
    yield Row("64 chats, WebSocket / SSE: p95 to first token", ratio("ttft"), 1.1, False)
    yield Row("64 chats, WebSocket / SSE: processor time of the parent", ratio("cpu"), 1.1, False)


def _figure(one: Round, of: str) -> float:
    if of == "ttft":
        return percentile(one.result.ttft, 0.95)
    return one.result.rate if of == "rate" else one.cpu_per_token


def _round(ours: Ours, number: int) -> tuple[Round, Round]:
    """Each side once, in turns first."""
    # Prompts of their own: the side that comes second may not find those of the first in the prompt cache.
    sides = {
        "sse": lambda: client.run(ours.port, MODEL, LOAD, 2 * number),
        "ws": lambda: talk(ours.port, 2 * number + 1),
    }
    found = {}
    for name in sorted(sides, reverse=bool(number % 2)):
        parent = psutil.Process(ours.process.pid)
        before = parent.cpu_times()
        result = asyncio.run(sides[name]())
        after = parent.cpu_times()
        found[name] = Round(result, after.user + after.system - before.user - before.system)
    return found["sse"], found["ws"]


# --- the client ---------------------------------------------------------------------------------------


async def talk(port: int, round_: int) -> Result:
    """All of the load on one socket. Raises RuntimeError where an answer is not whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 101 " not in head.split(b"\r\n", 1)[0]:
        raise RuntimeError(f"no WebSocket: {head!r}")
    line = _Line(writer)
    start = time.perf_counter()
    chats = [asyncio.ensure_future(_client(line, n, LOAD.of(n, round_))) for n in range(STREAMS)]
    reading = asyncio.ensure_future(line.read(reader))
    try:
        counts = await asyncio.wait_for(asyncio.gather(*chats), LIMIT_S)
    finally:
        reading.cancel()
        writer.close()
    return Result(time.perf_counter() - start, sum(counts), line.ttft)


async def _client(line: _Line, number: int, requests: list[Request]) -> int:
    total = 0
    for turn, request in enumerate(requests):
        counted = await line.ask(f"{number}.{turn}", request)
        if counted != request.tokens:
            raise RuntimeError(f"asked for {request.tokens} tokens, got {counted}")
        total += counted
    return total


class _Line:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.ttft: list[float] = []
        self._writer = writer
        self._asked: dict[bytes, float] = {}  # until its first text has come
        self._used: dict[bytes, int] = {}
        self._ends: dict[bytes, asyncio.Future[int]] = {}

    async def ask(self, id: str, request: Request) -> int:
        """Completion tokens of the answer."""
        body = {
            "id": id,
            "model": MODEL,
            "messages": [{"role": "user", "content": request.text}],
            "max_tokens": request.tokens,
            "temperature": 0,
            "stream_options": {"include_usage": True},
        }
        data, key = json.dumps(body).encode(), id.encode()
        end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ends[key] = end
        self._asked[key] = time.perf_counter()
        size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        self._writer.write(b"\x81" + size + b"\0\0\0\0" + data)  # a mask of zeros
        return await end

    async def read(self, reader: asyncio.StreamReader) -> None:
        try:
            await self._frames(reader)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._broken(repr(error))

    async def _frames(self, reader: asyncio.StreamReader) -> None:
        buffer = b""
        while data := await reader.read(262_144):
            buffer += data
            at = 0
            while at + 2 <= len(buffer):
                size, begin = buffer[at + 1], at + 2
                if size == 126:
                    if at + 4 > len(buffer):
                        break
                    size, begin = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
                if begin + size > len(buffer):
                    break
                if buffer[at] == 0x81:
                    self._message(buffer[begin : begin + size])
                at = begin + size
            buffer = buffer[at:]
        self._broken("the connection ended")

    def _message(self, data: bytes) -> None:
        if data.startswith(b'{"id":"'):
            key = data[7 : data.index(b'"', 7)]
            if key in self._asked:
                if any(choice["delta"].get("content") for choice in json.loads(data)["choices"]):
                    self.ttft.append(time.perf_counter() - self._asked.pop(key))
            elif b'"choices":[]' in data:
                self._used[key] = int(json.loads(data)["usage"]["completion_tokens"])
            return
        message = json.loads(data)
        if message["type"] != "done":
            self._broken(f"an answer was not whole: {message}")
            return
        key = message["id"].encode()
        self._ends.pop(key).set_result(self._used.pop(key))

    def _broken(self, why: str) -> None:
        for end in self._ends.values():
            if not end.done():
                end.set_exception(RuntimeError(why))
