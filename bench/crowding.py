"""What one long prompt does to everybody else: `python -m bench crowding`.

Three scenes, in rounds that alternate between mlx-lm's server and LMX, on the same model:

- a short request comes while a prompt of 8,000 tokens is processed: how long it waits for its first token;
- the same while another answer streams: the longest pause that its reader sees until the long prompt is done;
- a row of 8,000 tokens decodes beside seven short ones: what each keeps of its speed without the other.

All prompts differ from the first word on, so that nobody's prompt cache helps. The pauses are drawn to
crowding.png, and every round goes to crowding.json.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import models, talk
from bench.sides import Ours, Peer, only
from bench.speed import Row
from bench.streams import Stream

LONG, SHORT, CONTEXT = 8000, 40, 16384  # tokens
BESIDE = 7
PHASES = (0.3, 0.7)  # of the time a long prompt takes alone: when the short request comes
SETTLE = 12  # pieces of text after which a stream runs evenly
WINDOW_S = 3.0  # over which speeds are taken
SHAPE = "5m"
FIRST, PAUSE, KEPT = 0.5, 0.15, 0.35
LEAST_ROUNDS = 3


@dataclass
class Scenes:
    """One side in one round. Seconds, and pieces of text a second.

    pauses: (seconds since the long prompt was sent, seconds without text), until its first token.
    """

    cold: float = 0.0  # the long prompt alone, to its first token
    first: list[float] = field(default_factory=list)
    pauses: list[tuple[float, float]] = field(default_factory=list)
    beside_first: float = 0.0  # of the short request in the second scene
    beside_cold: float = 0.0  # of the long one there
    short: tuple[float, float] = (0.0, 0.0)  # alone, beside the long row; each of them
    long: tuple[float, float] = (0.0, 0.0)  # alone, beside the short rows

    @property
    def longest(self) -> float:
        return max(seconds for _, seconds in self.pauses)


def run(scratch: Path, rounds: int, out: Path) -> Iterator[Row]:
    """out: folder of the results."""
    folder = models.make(scratch / "crowding", SHAPE, CONTEXT)
    place = scratch / "crowding-run"
    place.mkdir()
    changes = {"cache": {"memory": "1GiB", "disk": "4GiB", "path": str(place / "cache")}}
    sides: list[Peer | Ours] = [Peer(folder, place), Ours(folder, place, **changes)]
    played: list[dict[str, Scenes]] = []
    out.mkdir(parents=True, exist_ok=True)
    try:
        cold = {side.name: _alone(side, [*sides]) for side in sides}
        for round_ in range(max(LEAST_ROUNDS, rounds)):
            found: dict[str, Scenes] = {}
            for side in sides if round_ % 2 else sides[::-1]:
                with only(side, [*sides]):
                    chance = random.Random(f"{side.name} {round_}")
                    found[side.name] = asyncio.run(_play(side, chance, cold[side.name]))
            played.append(found)
            record = [{name: asdict(scenes) for name, scenes in one.items()} for one in played]
            (out / "crowding.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    finally:
        for side in sides:
            side.close()
    draw(played, out / "crowding.png")
    yield from _rows(played)


def _alone(side: Peer | Ours, sides: list[Peer | Ours]) -> float:
    """Seconds that the long prompt takes by itself; warms up, too."""
    with only(side, [*sides]):
        return asyncio.run(_Play(side, random.Random(f"{side.name} alone")).alone())


def _rows(played: list[dict[str, Scenes]]) -> Iterator[Row]:
    def each(side: str, figure: str) -> list[float]:
        values = []
        for found in played:
            value = getattr(found[side], figure)
            values.append(statistics.mean(value) if isinstance(value, list) else value)
        return values

    name = f"beside a prompt of {LONG:,} tokens"
    waits = {side: each(side, "first") for side in ("peer", "ours")}
    pauses = {side: each(side, "longest") for side in ("peer", "ours")}
    goal: float | None
    for what, found, goal in (
        (f"{SHORT} tokens {name}, first token", waits, FIRST),
        (f"longest pause of a stream {name}", pauses, PAUSE),
    ):
        for side in ("peer", "ours"):
            yield Row(f"{what}: {side}", 1000 * statistics.median(found[side]), None, unit="ms")
        ratios = [ours / peer for ours, peer in zip(found["ours"], found["peer"], strict=True)]
        yield Row(f"{what}: ours / peer", statistics.median(ratios), goal, at_least=False)
    cold = [ours / peer for ours, peer in zip(each("ours", "cold"), each("peer", "cold"), strict=True)]
    yield Row(f"{LONG:,} tokens alone, first token: ours / peer", statistics.median(cold), None)
    shares = [o / p for o, p in zip(each("ours", "beside_cold"), each("peer", "beside_cold"), strict=True)]
    yield Row(f"{LONG:,} tokens beside a stream, first token: ours / peer", statistics.median(shares), None)
    for side in ("peer", "ours"):
        goal = KEPT if side == "ours" else None
        short = statistics.median(found[side].short[1] / found[side].short[0] for found in played)
        long = statistics.median(found[side].long[1] / found[side].long[0] for found in played)
        yield Row(f"{BESIDE} short rows beside a long one keep: {side}", short, goal)
        yield Row(f"a long row beside {BESIDE} short ones keeps: {side}", long, goal)


class _Play:
    """One side's part of a round."""

    def __init__(self, side: Peer | Ours, draw: random.Random) -> None:
        self._side = side
        self._draw = draw

    def stream(self, prompt: int, tokens: int) -> Stream:
        return Stream(self._side.port, self._side.model, talk.text(self._draw, prompt), tokens)

    async def alone(self) -> float:
        async with self.stream(LONG, 4) as long:
            await long.pieces(1)
        return long.first_s

    async def waits(self, cold: float) -> list[float]:
        found = []
        for phase in PHASES:
            async with self.stream(LONG, 4) as long:
                await asyncio.sleep(phase * cold)
                if long.times:
                    continue  # the machine is faster than before, and there is nothing to wait beside
                async with self.stream(SHORT, 4) as short:
                    await short.pieces(1)
                await long.pieces(1)
            found.append(short.first_s)
        if not found:
            raise RuntimeError(
                f"a long prompt was done before {PHASES[0]:.0%} of the {cold:.1f} s it took alone"
            )
        return found

    async def pauses(self, scenes: Scenes, cold: float) -> None:
        """A short request comes in the middle here too: that is how it is when many use a server."""
        async with self.stream(SHORT, 8000) as watched:
            await watched.pieces(SETTLE)
            async with self.stream(LONG, 4) as long:
                await asyncio.sleep(cold / 2)
                async with self.stream(SHORT, 4) as short:
                    await short.pieces(1)
                await long.pieces(1)
            await watched.pieces(len(watched.times) + 2)
        scenes.beside_first, scenes.beside_cold = short.first_s, long.first_s
        found = watched.pauses(long.began, long.times[0])
        scenes.pauses = [(at - long.began, seconds) for at, seconds in found]

    async def speeds(self, scenes: Scenes) -> None:
        async with AsyncExitStack() as stack:
            long = self.stream(LONG, 4000)
            async with long:
                await long.pieces(SETTLE)
                long_alone = await _watch([long])
                short = [await stack.enter_async_context(self.stream(SHORT, 4000)) for _ in range(BESIDE)]
                for one in short:
                    await one.pieces(SETTLE)
                both = await _watch([long, *short])
            await asyncio.gather(*(one.pieces(len(one.times) + SETTLE) for one in short))
            short_alone = await _watch(short)
        scenes.cold = long.first_s
        scenes.long = long_alone[0], both[0]
        scenes.short = statistics.mean(short_alone), statistics.mean(both[1:])


async def _watch(streams: list[Stream]) -> list[float]:
    """The speed of each, from now on."""
    start = time.perf_counter()
    await asyncio.sleep(WINDOW_S)
    end = time.perf_counter()
    return [stream.rate(start, end) for stream in streams]


async def _play(side: Peer | Ours, chance: random.Random, cold: float) -> Scenes:
    """cold: seconds that the long prompt takes by itself, about."""
    play, scenes = _Play(side, chance), Scenes()
    scenes.first = await play.waits(cold)
    await play.pauses(scenes, cold)
    await play.speeds(scenes)
    return scenes


def draw(played: list[dict[str, Scenes]], file: Path) -> None:
    """The pauses of the stream in the round of the median, one mark a pause, over the time they happened."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 5))
    for side, colour, words in (("peer", "#c44e52", "mlx-lm's server"), ("ours", "#4c72b0", "LMX")):
        scenes = sorted((found[side] for found in played), key=lambda one: one.longest)[len(played) // 2]
        times, pauses = zip(*scenes.pauses, strict=True)
        label = (
            f"{words}: at most {1000 * scenes.longest:,.0f} ms, long prompt after {scenes.beside_cold:.1f} s"
        )
        axes.vlines(times, 0, [1000 * pause for pause in pauses], colors=colour, linewidth=0.8, alpha=0.5)
        axes.plot(times, [1000 * pause for pause in pauses], ".", color=colour, label=label)
    axes.set(
        xlabel=f"seconds since a prompt of {LONG:,} tokens was sent",
        ylabel="ms without text, of another stream",
        yscale="log",
    )
    axes.set_title("What the reader of a running answer sees while a long prompt is processed")
    axes.legend(loc="upper right", fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
