"""What the parent costs: start, idle, memory, and its answers while sixteen streams run."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench import models
from bench.client import percentile
from bench.sides import ROOT, Ours
from bench.speed import Row
from bench.workload import Load

STARTS = 5
ROUNDS = 3
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
        rounds = [_healthz_under_load(ours) for _ in range(ROUNDS)]
        for part, goal in ((0.99, 10.0), (0.50, None)):
            found = statistics.median(percentile(waits, part) for waits in rounds) * 1000
            yield Row(f"/healthz p{part * 100:.0f} under 16 streams", found, goal, False, "ms")
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


def _healthz_under_load(ours: Ours) -> list[float]:
    command = [sys.executable, "-m", "bench.prober", str(ours.port)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as prober:
        ours.run(LOAD, 1)
        waits, _ = prober.communicate(timeout=60)
    return [float(wait) for wait in json.loads(waits)]


def _start(file: Path, port: int) -> float:
    """Seconds from the exec of `lmx up` to the first answer of /healthz."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance.cli", "up", "-f", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
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
