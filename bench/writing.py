"""What writing the prompt cache to disk costs the streams that run meanwhile.

Two appliances, one with the disk tier and one without, take turns with the same traffic: streams that decode
all the time, and new prompts at a fixed pace whose blocks are kept. Only one of the two writes them to disk.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import models, talk
from bench.nextturn import CONTEXT, rest
from bench.sides import Ours, Side, only
from bench.talk import Turn

SHAPE = "flat"
STREAMS, TOKENS = 4, 800
PROMPTS, PROMPT, PAUSE_S = 16, 700, 0.4  # so many prompts, of so many tokens, so far apart


@dataclass(frozen=True)
class Played:
    """rate: tokens per second of one stream, from its first text to its end, the mean of all.
    processor_s: of the engine, for all of the round's work and the writing behind it."""

    rate: float
    processor_s: float


def play(scratch: Path, rounds: int) -> list[tuple[Played, Played]]:
    """(with the disk tier, without) of each round; the first warms up and is not among them."""
    folder = models.make(scratch / "writing", SHAPE, CONTEXT)
    sides: list[tuple[Ours, Path | None]] = []
    try:
        for name, disk in (("writing-on", "8GiB"), ("writing-off", "0B")):
            place = scratch / name
            place.mkdir()
            cache = {"memory": "256MiB", "disk": disk, "path": str(place / "cache")}
            sides.append((Ours(folder, place, cache=cache), None if disk == "0B" else place / "cache"))
        return [_round(sides, round_) for round_ in range(rounds + 1)][1:]
    finally:
        for ours, _ in sides:
            ours.close()


def _round(sides: list[tuple[Ours, Path | None]], round_: int) -> tuple[Played, Played]:
    found = {}
    everyone: list[Side] = [ours for ours, _ in sides]
    for ours, cache in sides if round_ % 2 else reversed(sides):
        with only(ours, everyone):
            before = _processor(ours)
            rate = asyncio.run(_traffic(ours, round_))
            if cache is not None:
                rest(cache)
            found[cache is not None] = Played(rate, _processor(ours) - before)
    return found[True], found[False]


def _processor(ours: Ours) -> float:
    times = [engine.cpu_times() for engine in psutil.Process(ours.process.pid).children()]
    return sum(t.user + t.system for t in times)


async def _traffic(ours: Ours, round_: int) -> float:
    draw = random.Random(f"writing {round_}")
    streams = [_stream(ours, talk.text(draw, 40)) for _ in range(STREAMS)]
    prompts = [_prompt(ours, talk.text(draw, PROMPT), n * PAUSE_S) for n in range(PROMPTS)]
    turns, _ = await asyncio.gather(asyncio.gather(*streams), asyncio.gather(*prompts))
    return statistics.mean((TOKENS - 1) / (turn.last_s - turn.first_s) for turn in turns)


async def _stream(ours: Ours, text: str) -> Turn:
    return await talk.ask(ours.port, ours.model, [{"role": "user", "content": text}], TOKENS)


async def _prompt(ours: Ours, text: str, after_s: float) -> Turn:
    await asyncio.sleep(after_s)
    return await talk.ask(ours.port, ours.model, [{"role": "user", "content": text}], 1)
