"""Tokens per second and time to first token: LMX against mlx-lm's loop and mlx-lm's server.

Rounds alternate between the sides; what is reported is the median of the rounds' ratios, so that a busy
moment of a shared machine falls on both sides of a ratio or is outvoted.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import models
from bench.client import Result, percentile
from bench.sides import Limit, Ours, Peer, Side, only
from bench.workload import LOADS


@dataclass(frozen=True)
class Row:
    """One line of the table. goal: at least (or at most) this; None: shown, not judged."""

    what: str
    value: float
    goal: float | None
    at_least: bool = True
    unit: str = "ratio"

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


GOALS_ONE = {"5m": 0.80, "90m": 0.97}
# Against the peer, goals are judged where the server matters: on the 90 M model both spend their time in the
# same matrix products, and mlx-lm's loop without any server is itself under 1.35 of its server there.
JUDGED_AGAINST_PEER = "5m"


def run(scratch: Path, rounds: int, shapes: list[str]) -> Iterator[Row]:
    for shape in shapes:
        folder = models.make(scratch / shape, shape)
        place = scratch / f"{shape}-run"
        place.mkdir()
        sides: list[Side] = [Limit(folder), Peer(folder, place), Ours(folder, place)]
        try:
            for streams in (1, 16):
                yield from _rows(shape, streams, _measure(sides, shape, streams, rounds))
        finally:
            for side in sides:
                side.close()


def _measure(sides: list[Side], shape: str, streams: int, rounds: int) -> list[dict[str, Result]]:
    """The first round warms up and does not count."""
    load = LOADS[shape][streams]
    out = []
    for round_ in range(rounds + 1):
        results = {}
        # Another order each round: whoever follows the hottest side is not always the same.
        turn = round_ % len(sides)
        for side in (*sides[turn:], *sides[:turn]):
            with only(side, sides):
                results[side.name] = side.run(load, round_)
        out.append(results)
    return out[1:]


def _rows(shape: str, streams: int, rounds: list[dict[str, Result]]) -> Iterator[Row]:
    def median(of: str) -> float:
        return statistics.median(r[of].rate for r in rounds)

    def ratio(below: str) -> float:
        return statistics.median(r["ours"].rate / r[below].rate for r in rounds)

    name = f"{shape}, {streams} stream{'s' if streams > 1 else ''}"
    for side in ("limit", "peer", "ours"):
        yield Row(f"{name}: {side}", median(side), None, unit="tokens/s")
    yield Row(f"{name}: ours / limit", ratio("limit"), GOALS_ONE[shape] if streams == 1 else 0.85)
    if streams == 1:
        yield Row(f"{name}: ours / peer", ratio("peer"), None)
        return
    judged = shape == JUDGED_AGAINST_PEER
    yield Row(f"{name}: ours / peer", ratio("peer"), 1.35 if judged else None)
    best = statistics.median(r["limit"].rate / r["peer"].rate for r in rounds)
    yield Row(f"{name}: limit / peer, the most there is to win", best, None)
    for side in ("limit", "peer", "ours"):
        p95 = percentile([t for r in rounds for t in r[side].ttft], 0.95)
        yield Row(f"{name}: {side}, p95 to first token", p95 * 1000, None, unit="ms")
    first = statistics.median(
        percentile(r["ours"].ttft, 0.95) / percentile(r["peer"].ttft, 0.95) for r in rounds
    )
    yield Row(f"{name}: ours / peer, p95 to first token", first, 0.25 if judged else None, at_least=False)
