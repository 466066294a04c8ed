"""Agents with tools: many turns, each the whole conversation so far and one tool's result.

Both sides run the same model and get the same system prompt, task and results; what an agent sends back as
the assistant's words is what that side answered. mlx-lm's server runs with its own prompt cache: as it comes
for one conversation, and with the same bytes as LMX's memory tier for several at once.

A third column, `floor`, is what the new tokens of LMX's turns cost without any server (bench/floor.py): it
shows how much of a time to first token is the model's own computation.

An agent is plain, or it begins each request's system prompt with a line that is never the same twice, as
Claude Code does, or its model thinks: the first half of each answer is thinking, which clients do not send
back, so that the next prompt parts from what was computed at the last answer's first word. A model of
per-token caches alone goes on from there; one with a sliding window or a recurrent state cannot be cut back.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import models, talk
from bench.floor import floor
from bench.nextturn import CONTEXT
from bench.sides import Ours, Peer, Side, only
from bench.talk import Message, Turn

SHAPE = "flat"
KINDS = {
    "plain": "",
    "changing": " with Claude Code's changing line",
    "thinking": " that thinks",
    "window": " that thinks, sliding window",
}
TURNS, ANSWER = 20, 32
TOOL_S = 0.2  # what a tool takes
AT_ONCE, FIT = 8, 3
LENGTH = talk.AGENT + TURNS * (sum(talk.RESULT) // 2 + ANSWER)  # tokens of a conversation at its end


@dataclass(frozen=True)
class Played:
    """Turns by conversation, of one side in one round."""

    turns: list[list[Turn]]

    @property
    def first_s(self) -> float:
        """Total time to first token."""
        return sum(turn.first_s for talk_ in self.turns for turn in talk_)

    @property
    def cached(self) -> float:
        """Part of all prompt tokens that was not computed."""
        turns = [turn for talk_ in self.turns for turn in talk_]
        return sum(turn.cached for turn in turns) / sum(turn.prompt for turn in turns)


def bytes_per_token(shape: str) -> int:
    """Keys and values of all layers in float32."""
    sizes = models.SHAPES[shape]
    return int(2 * 4 * sizes["num_hidden_layers"] * sizes["num_key_value_heads"] * sizes["head_dim"])


def one(scratch: Path, rounds: int, kind: str) -> list[dict[str, Played]]:
    """A conversation at a time, all different, and its floor. kind: one of KINDS."""
    cache = {"memory": "1GiB", "disk": "8GiB"}
    return _play(scratch, kind, rounds, 1, cache, (), bare=True)


def several(scratch: Path, rounds: int) -> list[dict[str, Played]]:
    """AT_ONCE conversations of the same agent at once; memory for FIT of them, system prompts included."""
    size = FIT * LENGTH * bytes_per_token(SHAPE)
    # The peer counts sequences too; bytes alone shall bind.
    options = ("--prompt-cache-bytes", str(size), "--prompt-cache-size", "1000")
    return _play(scratch, "crowd", rounds, AT_ONCE, {"memory": f"{size}B", "disk": "8GiB"}, options)


def _play(
    scratch: Path,
    name: str,
    rounds: int,
    talks: int,
    cache: dict[str, Any],
    options: tuple[str, ...],
    *,
    bare: bool = False,
) -> list[dict[str, Played]]:
    """bare: with the floor of each round."""
    folder = models.make(scratch / name, "window" if name == "window" else SHAPE, CONTEXT)
    place = scratch / f"{name}-run"
    place.mkdir()
    ours = Ours(folder, place, cache={**cache, "path": str(place / "cache")})
    sides: list[Ours | Peer] = [ours]
    try:
        sides.append(Peer(folder, place, *options))
        for side in sides:
            asyncio.run(talk.ask(side.port, side.model, [talk.task(random.Random(name))], ANSWER))
        played = []
        for round_ in range(rounds):
            played.append(_round(sides, name, talks, round_))
            if bare:
                with only(None, sides):
                    played[-1]["floor"] = Played(floor(folder, played[-1]["ours"].turns))
        return played
    finally:
        for side in sides:
            side.close()


def _round(sides: list[Ours | Peer], kind: str, talks: int, round_: int) -> dict[str, Played]:
    found = {}
    everyone: list[Side] = list(sides)
    for side in sides if round_ % 2 else reversed(sides):
        with only(side, everyone):
            found[side.name] = asyncio.run(_all(side, kind, f"{kind} {round_}", talks))
    return found


async def _all(side: Ours | Peer, kind: str, seed: str, talks: int) -> Played:
    system = talk.agent(random.Random(f"{seed} agent"))  # one program, run `talks` times
    work = (_talk(side, kind, system, random.Random(f"{seed} task {n}")) for n in range(talks))
    return Played(list(await asyncio.gather(*work)))


async def _talk(side: Ours | Peer, kind: str, system: Message, draw: random.Random) -> list[Turn]:
    turns: list[Turn] = []
    said = [talk.task(draw)]
    for _ in range(TURNS):
        first = talk.billed(system, draw) if kind == "changing" else system
        turns.append(await talk.ask(side.port, side.model, [first, *said], ANSWER))
        said = [*talk.said(said, turns[-1], thinks=kind in ("thinking", "window")), talk.result(draw)]
        await asyncio.sleep(TOOL_S)
    return turns
