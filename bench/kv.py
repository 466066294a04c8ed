"""What `kv_bits` saves and what it costs: one engine process for each of null, 8 and 4, at the wire.

The same prompts go to all three in alternating rounds; a ratio is the median of the rounds'. Processor time
is shown beside wall time: on a machine that does other work too, it is the steadier one. The model is
the random-weight 5 M shape in float32, so that the cost of attention shows; how well a quantised cache
remembers is asked of the demo model, which was trained (bench/kv_quality.py).
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from appliance import wire
from bench import models
from bench.sides import ROOT
from bench.speed import Row

BITS: tuple[int | None, ...] = (None, 8, 4)
PROMPT, TOKENS = 1000, 60  # of a row
LONG = 4000  # tokens of the prompt that is timed
ROWS = (1, 8)


@dataclass(frozen=True)
class Times:
    """Seconds of the prompts, until every row has a token, and of each token after that; wall, processor."""

    first: float
    first_cpu: float
    token: float
    token_cpu: float


class Engine:
    def __init__(self, folder: Path, kv_bits: int | None) -> None:
        self.kv_bits = kv_bits
        self._sock, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "appliance.engine", "--fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self._file = self._sock.makefile("rb")
        self._rid = 0
        self._send(wire.Load("bench", str(folder), kv_bits=kv_bits))
        while not isinstance(message := self._next(), wire.Loaded):
            if isinstance(message, wire.LoadFailed):
                raise RuntimeError(message.message)
        self._send(wire.Configure(context=8192, concurrency=max(ROWS)))

    def _send(self, message: wire.ToEngine) -> None:
        self._sock.sendall(wire.encode(message))

    def _next(self) -> wire.FromEngine:
        (length,) = wire.HEADER.unpack(self._file.read(wire.HEADER.size))
        return wire.decode_from_engine(self._file.read(length))

    def _submit(self, prompt: int, tokens: int, seed: int) -> None:
        self._rid += 1
        ids = [2 + (seed + 31 * self._rid + 7 * n) % 1000 for n in range(prompt)]
        sampling = wire.Sampling(max_tokens=tokens)
        self._send(wire.Submit(self._rid, prompt=ids, ignore_eos=True, sampling=sampling))

    def run(self, rows: int, prompt: int, tokens: int, seed: int) -> Times:
        for _ in range(rows):
            self._submit(prompt, tokens, seed)
        start = _now(self._process.pid)
        first = start
        produced: dict[int, int] = {}
        ended = before = 0
        while ended < rows:
            message = self._next()
            if isinstance(message, wire.Step):
                produced |= {row.rid: row.tokens for row in message.rows}
                ended += sum(row.finish is not None for row in message.rows)
                if len(produced) == rows and not before:
                    first, before = _now(self._process.pid), sum(produced.values())
        end = _now(self._process.pid)
        tokens = sum(produced.values()) - before
        return Times(
            first[0] - start[0],
            first[1] - start[1],
            (end[0] - first[0]) / tokens,
            (end[1] - first[1]) / tokens,
        )

    def bytes_per_token(self) -> float:
        """Of one row that comes to 4,096 tokens, as the engine reserves it from its own arrays."""
        self._submit(96, 4000, 0)
        while not (isinstance(message := self._next(), wire.Beat) and message.rows == 1):
            pass
        reserved = message.reserved_bytes
        self._send(wire.Cancel(self._rid))
        while not (isinstance(message := self._next(), wire.Step) and message.rows[-1].finish):
            pass
        return reserved / 4096

    def close(self) -> None:
        self._send(wire.Shutdown())
        self._process.wait(60)
        self._file.close()
        self._sock.close()


def _now(pid: int) -> tuple[float, float]:
    """Wall clock, and processor seconds of a process, the system's for it included."""
    spent = psutil.Process(pid).cpu_times()
    return time.perf_counter(), spent.user + spent.system


def run(scratch: Path, rounds: int) -> Iterator[Row]:
    folder = models.make(scratch / "kv-5m", "5m", 8192)
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(contextlib.closing(Engine(folder, bits))) for bits in BITS]
        plain, *quantised = [engine.bytes_per_token() for engine in engines]
        yield Row("5m, kv_bits null: memory per token", plain / 1024, None, unit="KiB")
        for bits, held in zip(BITS[1:], quantised, strict=True):
            # Of float32: bits and a scale and a bias of 32 bits for each 64 elements.
            most = (bits or 32) / 32 + 2 / 64
            yield Row(f"5m, kv_bits {bits}: memory per token / null", held / plain, most, at_least=False)
        for rows in ROWS:
            yield from _speeds(engines, rows, rounds)
        yield from _prefill(engines, rounds)
    yield from _quality()


def _measure(engines: list[Engine], rounds: int, rows: int, prompt: int, tokens: int) -> list[list[Times]]:
    """By round, by engine. The first round warms up and does not count."""
    out = []
    for round_ in range(rounds + 1):
        turn = round_ % len(engines)  # another order each round
        times = {
            engine.kv_bits: engine.run(rows, prompt, tokens, round_)
            for engine in (*engines[turn:], *engines[:turn])
        }
        out.append([times[bits] for bits in BITS])
    return out[1:]


def _speeds(engines: list[Engine], rows: int, rounds: int) -> Iterator[Row]:
    seen = _measure(engines, rounds, rows, PROMPT, TOKENS)
    name = f"{rows} row{'s' if rows > 1 else ''} after {PROMPT:,} tokens"
    rate = statistics.median(1 / times[0].token for times in seen)
    yield Row(f"5m, kv_bits null, {name}", rate, None, unit="tokens/s")
    for index, bits in enumerate(BITS[1:], 1):
        wall = statistics.median(times[index].token / times[0].token for times in seen)
        spent = statistics.median(times[index].token_cpu / times[0].token_cpu for times in seen)
        yield Row(f"5m, kv_bits {bits}, {name}: time per token / null", wall, None)
        yield Row(f"5m, kv_bits {bits}, {name}: processor time per token / null", spent, None)


def _prefill(engines: list[Engine], rounds: int) -> Iterator[Row]:
    seen = _measure(engines, rounds, 1, LONG, 2)
    for index, bits in enumerate(BITS[1:], 1):
        wall = statistics.median(times[index].first / times[0].first for times in seen)
        spent = statistics.median(times[index].first_cpu / times[0].first_cpu for times in seen)
        yield Row(f"5m, kv_bits {bits}: time of a {LONG:,}-token prompt / null", wall, None)
        yield Row(f"5m, kv_bits {bits}: processor time of a {LONG:,}-token prompt / null", spent, None)


def _quality() -> Iterator[Row]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.kv_quality"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    for bits in BITS[1:]:
        above = 100 * (found[str(bits)] / found["None"] - 1)
        yield Row(f"demo model, kv_bits {bits}: perplexity above null", above, None, unit="%")
