"""What the parent costs: start, idle, memory, and its answers while sixteen streams run."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench import client, models
from bench.client import percentile
from bench.sides import Ours
from bench.speed import Row
from bench.workload import Load

STARTS = 5
IDLE_S = 20.0
LOAD = Load(16, 4, (200, 200))


def run(scratch: Path) -> Iterator[Row]:
    folder = models.make(scratch / "serving", "5m")
    place = scratch / "serving-run"
    place.mkdir()
    ours = Ours(folder, place)
    try:
        parent = psutil.Process(ours.process.pid)
        yield Row("idle: processor time of the parent", _idle(parent), 1.0, False, "% of a core")
        engines = sum(_idle(p, 5.0) for p in parent.children())
        yield Row("idle: processor time of the engine", engines, None, False, "% of a core")
        waits = asyncio.run(_healthz_under_load(ours))
        yield Row("/healthz p99 under 16 streams", percentile(waits, 0.99) * 1000, 10.0, False, "ms")
        yield Row("/healthz p50 under 16 streams", percentile(waits, 0.50) * 1000, None, False, "ms")
        yield Row("memory of the parent, after load", parent.memory_info().rss / 1e6, 150.0, False, "MB")
        spec = ours.file
    finally:
        ours.close()
    starts = sorted(_start(spec, ours.port) for _ in range(STARTS))
    yield Row("lmx up: /healthz answers after (median of 5)", starts[len(starts) // 2], 1.5, False, "s")


def _idle(process: psutil.Process, seconds: float = IDLE_S) -> float:
    """Percent of one core over a while without requests."""
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return 100 * (after.user + after.system - before.user - before.system) / seconds


async def _healthz_under_load(ours: Ours) -> list[float]:
    running = asyncio.create_task(client.run(ours.port, "bench", LOAD, 1))
    waits = []
    while not running.done():
        start = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", ours.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        waits.append(time.perf_counter() - start)
        writer.close()
        if b'"ok"' not in answer:
            raise RuntimeError(f"/healthz said {answer!r}")
        await asyncio.sleep(0.02)
    await running
    return waits


def _start(file: Path, port: int) -> float:
    """Seconds from the exec of `lmx up` to the first answer of /healthz."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance.cli", "up", "-f", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[1],
    )
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
                    return time.perf_counter() - begin
            except OSError:
                time.sleep(0.005)
    finally:
        process.terminate()
        process.wait(60)
