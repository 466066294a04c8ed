"""`make soak`: steady mixed load with swaps for ten minutes, and a memory line that must stay flat.

    python -m bench.soak [--minutes N] [--out FOLDER]

One model stays in memory all the time, another comes and goes with each swap. What the parent and the
engine that stays take is sampled each second. An engine takes more while its model is the active one, so the
line goes through the largest sample of each round of swaps; without a warm-up, it must rise by less than
RISE. Writes soak.png and soak.json, and exits with 1 where the line rises or an answer failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench import client, wire
from bench.sides import ROOT, Ours

MIB = 2**20
DEMO, MINI = (ROOT / "examples" / "models" / name for name in ("lmx-demo", "lmx-demo-mini"))
BUDGET = "1GiB"
STREAMS, WHOLES, LEAVERS = 6, 2, 1
SWAP_EVERY_S = 20.0
ROUND_S = 2 * SWAP_EVERY_S  # there and back
LEAST_MINUTES = 3.0  # fewer rounds say nothing about a slope
WARM_UP = 0.25  # part of the time
RISE = {"parent": 0.5, "engine": 1.5}  # MiB per minute at most, by least squares
QUESTIONS = ("Who are you?", "What is LMX?", "How do I swap models?", "Count from one to one hundred.")
LONG = "Tell me about memory. " * 100


@dataclass
class Soak:
    """seconds: since the beginning. Sizes in MiB; engines: all of them together."""

    seconds: list[float] = field(default_factory=list)
    parent: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    engines: list[float] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    swaps: list[float] = field(default_factory=list)
    answers: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def peaks(self, line: list[float]) -> list[tuple[float, float]]:
        """(seconds, MiB): the largest sample of each whole round of swaps after the warm-up."""
        rounds: dict[int, list[tuple[float, float]]] = {}
        for at, size in zip(self.seconds, line, strict=True):
            if at >= WARM_UP * self.seconds[-1]:
                rounds.setdefault(int(at // ROUND_S), []).append((size, at))
        whole = [found for found in rounds.values() if len(found) > 0.8 * ROUND_S]
        return [(at, size) for size, at in map(max, whole)]

    def rise(self, line: list[float]) -> float:
        """MiB per minute."""
        peaks = self.peaks(line)
        return slope([at for at, _ in peaks], [size for _, size in peaks]) * 60


def slope(xs: list[float], ys: list[float]) -> float:
    """Least squares."""
    count = len(xs)
    mx, my = sum(xs) / count, sum(ys) / count
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)


async def soak(ours: Ours, minutes: float) -> Soak:
    found, stop = Soak(), asyncio.Event()
    tasks = [
        *(asyncio.create_task(_streams(ours.port, n, found, stop)) for n in range(STREAMS)),
        *(asyncio.create_task(_wholes(ours.port, n, found, stop)) for n in range(WHOLES)),
        *(asyncio.create_task(_leaves(ours.port, n, found, stop)) for n in range(LEAVERS)),
        asyncio.create_task(_swaps(ours, found, stop)),
    ]
    await _sample(ours, found, minutes * 60)
    stop.set()
    await asyncio.gather(*tasks)
    return found


async def _streams(port: int, number: int, found: Soak, stop: asyncio.Event) -> None:
    draw = random.Random(f"stream {number}")
    while not stop.is_set():
        text = LONG if draw.random() < 0.1 else draw.choice(QUESTIONS)
        try:
            await client.ask(
                port, draw.choice(("default", "default", "demo")), text, draw.choice((8, 64, 160))
            )
            found.answers += 1
        except (RuntimeError, OSError) as error:
            found.failures[str(error)[:200]] += 1
        await asyncio.sleep(draw.expovariate(10))


async def _wholes(port: int, number: int, found: Soak, stop: asyncio.Event) -> None:
    draw = random.Random(f"whole {number}")
    while not stop.is_set():
        body = {"messages": [{"role": "user", "content": draw.choice(QUESTIONS)}], "max_tokens": 32}
        answer = await wire.post(port, "/v1/chat/completions", body)
        if answer.status == 200:
            found.answers += 1
        else:
            found.failures[f"{answer.status} {answer.code}"] += 1
        await asyncio.sleep(draw.expovariate(10))


async def _leaves(port: int, number: int, found: Soak, stop: asyncio.Event) -> None:
    """Asks for a long stream and is gone in the middle of it."""
    draw = random.Random(f"leaver {number}")
    body = {"messages": [{"role": "user", "content": QUESTIONS[-1]}], "max_tokens": 256, "stream": True}
    while not stop.is_set():
        _, writer = await wire.begin(port, "/v1/chat/completions", body)
        await asyncio.sleep(draw.uniform(0.02, 0.3))
        writer.transport.abort()
        await asyncio.sleep(draw.expovariate(2))


async def _swaps(ours: Ours, found: Soak, stop: asyncio.Event) -> None:
    begin, models = time.monotonic(), ("mini", "demo")
    while not stop.is_set():
        try:
            async with asyncio.timeout(SWAP_EVERY_S):
                await stop.wait()
        except TimeoutError:
            ours.save({**ours.spec, "active": models[len(found.swaps) % 2]})
            found.swaps.append(time.monotonic() - begin)


async def _sample(ours: Ours, found: Soak, seconds: float) -> None:
    begin = time.monotonic()
    parent = psutil.Process(ours.process.pid)
    engine = psutil.Process(wire.get_json(ours.port, "/status")["models"]["demo"]["pid"])
    while (now := time.monotonic() - begin) < seconds:
        found.seconds.append(now)
        found.parent.append(_own(parent))
        found.engine.append(_own(engine))
        found.engines.append(sum(_size(p) for p in parent.children()))
        found.handles.append(parent.num_fds())
        await asyncio.sleep(1.0)


def _own(process: psutil.Process) -> float:
    """MiB of memory that no file stands behind.

    Not the unique set size: a page of a library counts there as soon as no other process happens to map it,
    so the line would jump by 7 MiB whenever an unrelated program of the same interpreter ends.
    """
    info = process.memory_info()
    shared: int | None = getattr(info, "shared", None)  # Linux alone tells
    return float((process.memory_full_info().uss if shared is None else info.rss - shared) / MIB)


def _size(process: psutil.Process) -> float:
    try:
        return _own(process)
    except psutil.Error:
        return 0.0  # it has just ended


def draw(found: Soak, file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 5))
    minutes = [s / 60 for s in found.seconds]
    axes.plot(minutes, found.engines, color="#bbbbbb", linewidth=0.8, label="all engines")
    axes.plot(minutes, found.engine, label=f"engine that stays: {found.rise(found.engine):+.2f} MiB/min")
    axes.plot(minutes, found.parent, label=f"parent: {found.rise(found.parent):+.2f} MiB/min")
    for at in found.swaps:
        axes.axvline(at / 60, color="#dddddd", linewidth=0.5, zorder=0)
    axes.axvspan(0, minutes[-1] * WARM_UP, color="#f4f4f4", zorder=0, label="warm-up, not judged")
    axes.set(xlabel="minutes", ylabel="MiB of its own", ylim=(0, None))
    axes.set_title(
        f"{found.answers:,} answers, {len(found.swaps)} swaps, {sum(found.failures.values())} failed"
    )
    axes.legend(loc="center right", fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def judge(found: Soak) -> list[str]:
    """What does not hold, in words."""
    problems = [f"{count} answers failed: {what}" for what, count in found.failures.items()]
    for name, most in RISE.items():
        rise = found.rise(getattr(found, name))
        if rise > most:
            problems.append(f"the {name}'s memory rises by {rise:.2f} MiB/min, at most {most} is allowed")
    return problems


def _spec() -> dict[str, Any]:
    greedy = {"temperature": 0}
    return {
        "memory": {"budget": BUDGET},  # a small machine is at its plateau sooner
        "active": "demo",
        "models": {
            "demo": {"source": str(DEMO), "concurrency": 8, "sampling": greedy, "residency": "loaded"},
            "mini": {"source": str(MINI), "concurrency": 8, "sampling": greedy},
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args()
    if args.minutes < LEAST_MINUTES:
        parser.error(f"a line needs {LEAST_MINUTES:g} minutes at least; --minutes is {args.minutes:g}")
    with tempfile.TemporaryDirectory(prefix="lmx-soak-") as folder:
        ours = Ours(DEMO, Path(folder), **_spec())
        try:
            found = asyncio.run(soak(ours, args.minutes))
        finally:
            ours.close()
    args.out.mkdir(parents=True, exist_ok=True)
    draw(found, args.out / "soak.png")
    problems = judge(found)
    rises = {name: round(found.rise(getattr(found, name)), 3) for name in RISE}
    record = {**asdict(found), "rise_mib_per_minute": rises, "allowed": RISE, "problems": problems}
    (args.out / "soak.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(f"{found.answers} answers and {len(found.swaps)} swaps in {args.minutes:g} minutes")
    for name, rise in rises.items():
        peaks = [size for _, size in found.peaks(getattr(found, name))]
        print(f"{name}: peaks of {min(peaks):.1f} to {max(peaks):.1f} MiB after warm-up, "
              f"{rise:+.2f} MiB/min (at most {RISE[name]})")  # fmt: skip
    for problem in problems:
        print(f"PROBLEM {problem}")
    print(f"the line: {args.out / 'soak.png'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
