"""Ten times the load that can be served: what is accepted runs as fast as ever, the rest hears so at once.

In each round the rows are first kept full by hardly more clients than there are rows: tokens per second, and
with that the request rate that can be sustained. Then requests come at ten times that rate, whatever becomes
of them (open loop), as they do from many users who do not know of each other. Both draw the lengths of their
answers alike, so that rows end one by one in both; and an answer that a window cuts counts by the part of its
time that lies inside, not whole or not at all: with eight rows, that alone would be an error of 8 %.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop

from bench import models, wire
from bench.client import percentile
from bench.sides import ROOT, Ours
from bench.speed import Row
from bench.workload import WORDS

ROWS = 8
SPARE = 2  # more clients than rows while unloaded: no row stands idle between two answers, as under overload
TOKENS = (48, 144)  # least and most of an answer, each length as likely
TIMES = 10
ROUNDS = 3
WARM_UP_S, UNLOADED_S, LOADED_S = 3.0, 10.0, 20.0
REFUSED_MS, ASKED_MS = 100.0, 50.0
KEPT = 4096  # bytes of the end of an answer: the usage is in there


@dataclass
class Outcome:
    """What became of the requests. refused: seconds until they heard so. answers: (first byte, last byte,
    tokens) of whole ones."""

    answers: list[tuple[float, float, int]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    without_retry: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    sent: int = 0

    def rate(self, begin: float, end: float) -> float:
        """Tokens per second in this time. An answer's come evenly from its first byte, which is sent when
        an engine has begun it, to its last."""
        done = sum(
            tokens * max(0.0, min(last, end) - max(first, begin)) / (last - first)
            for first, last, tokens in self.answers
        )
        return done / (end - begin)

    def add(self, other: Outcome) -> None:
        self.answers += other.answers
        self.refused += other.refused
        self.without_retry += other.without_retry
        self.sent += other.sent


class Call(asyncio.Protocol):
    """One request on one connection: as little work as can be, until the last byte."""

    def __init__(self, request: bytes, outcome: Outcome) -> None:
        self._request, self._outcome = request, outcome
        self._begin = time.perf_counter()
        self._first = 0.0
        self._head = self._tail = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._first:
            self._first = time.perf_counter()
        if len(self._head) < 1024:
            self._head += data
        self._tail = (self._tail + data)[-KEPT:]

    def connection_lost(self, exc: Exception | None) -> None:
        now = time.perf_counter()
        out = self._outcome
        status = self._head[9:12]
        if status == b"200" and b"data: [DONE]" in self._tail:
            out.answers.append((self._first, now, _usage(self._tail)))
        elif status in (b"503", b"429"):
            out.refused.append(now - self._begin)
            out.without_retry += b"\r\nretry-after: " not in self._head.lower()
        else:
            out.wrong[f"{exc or ''} {self._head[:60]!r} ... {self._tail[-200:]!r}"] += 1
        self.done.set_result(None)


def _usage(tail: bytes) -> int:
    start = tail.rindex(b'"completion_tokens":') + len(b'"completion_tokens":')
    return int(tail[start : start + 10].split(b",")[0].split(b"}")[0])


def _request(draw: random.Random) -> bytes:
    return wire.request(
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": " ".join(draw.choices(WORDS, k=12))}],
            "max_tokens": draw.randint(*TOKENS),
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    )


async def _call(port: int, draw: random.Random, outcome: Outcome) -> Call:
    outcome.sent += 1
    loop = asyncio.get_running_loop()
    request = _request(draw)
    _, call = await loop.create_connection(lambda: Call(request, outcome), "127.0.0.1", port)
    return call


async def unloaded(port: int, round_: int) -> float:
    """Tokens per second with every row taken, and next to nobody waiting for one."""
    outcome, draw = Outcome(), random.Random(f"unloaded:{round_}")
    end = time.perf_counter() + WARM_UP_S + UNLOADED_S

    async def client() -> None:
        while time.perf_counter() < end:
            await (await _call(port, draw, outcome)).done

    await asyncio.gather(*(client() for _ in range(ROWS + SPARE)))
    _check(outcome)
    return outcome.rate(end - UNLOADED_S, end)


async def overloaded(port: int, rate: float, round_: int) -> tuple[Outcome, float]:
    """Requests at `rate` per second for a while; and the tokens per second of those that were accepted."""
    outcome, draw = Outcome(), random.Random(f"overloaded:{round_}")
    begin = time.perf_counter()
    calls = []
    while (now := time.perf_counter() - begin) < WARM_UP_S + LOADED_S:
        due = int(now * rate) + 1 - outcome.sent
        calls += await asyncio.gather(*(_call(port, draw, outcome) for _ in range(due)))
        await asyncio.sleep(max(0.0, outcome.sent / rate - (time.perf_counter() - begin)))
    await asyncio.gather(*(call.done for call in calls))
    _check(outcome)
    return outcome, outcome.rate(begin + WARM_UP_S, begin + WARM_UP_S + LOADED_S)


def _check(outcome: Outcome) -> None:
    if outcome.wrong:
        raise RuntimeError(f"neither an answer nor a refusal: {outcome.wrong.most_common(3)}")


@dataclass
class Rounds:
    """usual: tokens per second unloaded. kept: what is left of that under overload. share: of a core, that
    the load generator takes under overload. waits: path -> seconds of each answer under overload."""

    usual: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    waits: dict[str, list[float]] = field(default_factory=lambda: {"/healthz": [], "/status": []})
    outcome: Outcome = field(default_factory=Outcome)

    def play(self, port: int, runner: asyncio.Runner, round_: int) -> None:
        """One round: unloaded, then overloaded."""
        usual = runner.run(unloaded(port, round_))
        probers = {path: _prober(port, path) for path in self.waits}
        began, used = time.perf_counter(), time.process_time()
        outcome, rate = runner.run(overloaded(port, TIMES * usual / statistics.mean(TOKENS), round_))
        self.share.append((time.process_time() - used) / (time.perf_counter() - began))
        for path, prober in probers.items():
            self.waits[path] += json.loads(prober.communicate(timeout=60)[0])
        self.usual.append(usual)
        self.kept.append(rate / usual)
        self.outcome.add(outcome)


def run(scratch: Path, rounds: int = ROUNDS) -> Iterator[Row]:
    folder = models.make(scratch / "overload", "5m")
    place = scratch / "overload-run"
    place.mkdir()
    ours = Ours(folder, place, models={"bench": {"source": str(folder), "concurrency": ROWS}})
    found = Rounds()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for round_ in range(rounds):
                found.play(ours.port, runner, round_)
    finally:
        ours.close()
    usual, outcome = statistics.median(found.usual), found.outcome
    yield Row("overload: unloaded, every row taken", usual, None, unit="tokens/s")
    yield Row("overload: requests that can be sustained", usual / statistics.mean(TOKENS), None, unit="1/s")
    yield Row("overload: requests sent", outcome.sent, None, unit="requests")
    yield Row("overload: accepted throughput, of unloaded", statistics.median(found.kept), 0.9)
    yield Row("overload: the same, worst round", min(found.kept), None)
    yield Row("overload: the same, best round", max(found.kept), None)
    yield Row(
        "overload: refused hear so, p99", 1000 * percentile(outcome.refused, 0.99), REFUSED_MS, False, "ms"
    )
    yield Row("overload: refused without Retry-After", outcome.without_retry, 0, False, "requests")
    yield Row("overload: accepted", len(outcome.answers), None, unit="requests")
    for path, waits in found.waits.items():
        yield Row(f"overload: {path} p99", 1000 * percentile(waits, 0.99), ASKED_MS, False, "ms")
    share = 100 * statistics.median(found.share)
    yield Row("overload: processor time of the load generator", share, None, unit="% of a core")


def _prober(port: int, path: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench.prober", str(port), path]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
