"""The speeds of one round: a long prompt, its next turn, then answers at 1, 4 and 16 streams.

Every prompt is words drawn from a seed that no other request had, so that the prompt cache finds nothing but
where the next turn is measured. How many tokens a word has is learnt from the first answer's usage.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.benching.asking import Timed, timed

if TYPE_CHECKING:
    import httpx

STREAMS = (1, 4, 16)
# Whatever can count can answer this at length, the demonstration model too.
QUESTION = "Count from one to one hundred."
WORDS = (
    "river", "stone", "lamp", "garden", "window", "paper", "north", "table", "silver", "music", "winter",
    "bread", "house", "letter", "engine", "glass", "morning", "field", "copper", "road", "light", "water",
    "forest", "button", "chair", "market", "summer", "clock", "mirror", "ladder", "bottle", "pencil",
    "basket", "island", "candle", "harbour", "meadow", "orchard", "pocket", "ribbon", "saddle", "tunnel",
    "valley", "wagon",
)  # fmt: skip
LONG = 16  # tokens of an answer that tells how fast a model writes
FIRST_GUESS = 1.5  # tokens per word, until an answer says better


@dataclass(frozen=True)
class Sizes:
    """prompt: tokens of the long one. alone, answer: most tokens of an answer at one stream, and at more.

    One that is alone is longer: on a busy machine pieces come in bursts, and only length evens that out.
    each: requests of one round at so many streams.
    """

    prompt: int
    alone: int
    answer: int
    each: Mapping[int, int]


QUICK = Sizes(prompt=512, alone=96, answer=32, each={1: 2, 4: 4, 16: 16})
FULL = Sizes(prompt=2048, alone=256, answer=128, each={1: 4, 4: 8, 16: 32})


@dataclass(frozen=True)
class Kind:
    """One figure: its unit, and whether more of it is better."""

    unit: str
    higher: bool
    about: str


def kinds() -> dict[str, Kind]:
    """Every figure by name, in the order of the table."""
    made = {
        "prefill": Kind("tokens/s", True, "a long prompt that nobody has sent before, to its first text"),
        "decode": Kind("tokens/s", True, "one answer alone, from its first text to its end"),
    }
    for streams in STREAMS:
        made[f"throughput_{streams}"] = Kind("tokens/s", True, f"all answers together, {streams} at a time")
    for streams in STREAMS:
        for part in ("p50", "p95"):
            made[f"ttft_{part}_{streams}"] = Kind(
                "ms", False, f"to the first text, {part}, {streams} at a time"
            )
    made["long_ttft"] = Kind("ms", False, "the long prompt, to its first text")
    made["next_turn_ttft"] = Kind("ms", False, "the next turn of that conversation, to its first text")
    made["next_turn_cached"] = Kind("%", True, "of the next turn's prompt, found in the cache")
    return made


class Speeds:
    """Rounds of one run against one model. salt: what makes this run's prompts unlike any other run's."""

    def __init__(
        self, http: httpx.AsyncClient, model: str, sizes: Sizes, salt: str, most: int | None
    ) -> None:
        """most: tokens of the model's context, where it is known: the long prompt stays well within."""
        self._http, self._model, self._sizes, self._salt = http, model, sizes, salt
        room = sizes.prompt if most is None else most // 2
        self._prompt = min(sizes.prompt, room)
        self._per_word = FIRST_GUESS

    async def warm_up(self) -> None:
        """Connections are opened, and the length of a word is learnt; nothing of it counts."""
        words = 64
        answer = await timed(self._http, self._body(self._text("warm", words), 8))
        bare = await timed(self._http, self._body("", 8))
        self._per_word = max(0.5, (answer.prompt - bare.prompt) / words)
        await self._together(max(STREAMS), "warm", 4)

    async def one_round(self, number: int) -> dict[str, float]:
        """Figures by name, in the units of `kinds`."""
        return {**await self._turns(number), **await self._streams(number)}

    async def _turns(self, number: int) -> dict[str, float]:
        """The long prompt, then one more turn of that conversation."""
        text = self._text(f"long {number}", round(self._prompt / self._per_word))
        first = self._body(text, 8)
        cold = await timed(self._http, first)
        said = {"role": "assistant", "content": cold.text}
        again = {"role": "user", "content": "And backwards?"}
        warm = await timed(self._http, {**first, "messages": [*first["messages"], said, again]})
        return {
            "prefill": (cold.prompt - cold.cached) / cold.first_s,
            "long_ttft": cold.first_s * 1000,
            "next_turn_ttft": warm.first_s * 1000,
            "next_turn_cached": 100 * warm.cached / warm.prompt,
        }

    async def _streams(self, number: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for streams in STREAMS:
            count = self._sizes.each[streams]
            start = time.perf_counter()
            tokens = self._sizes.alone if streams == 1 else self._sizes.answer
            answers = await self._together(streams, f"{number} at {streams}", tokens, count)
            seconds = time.perf_counter() - start
            firsts = sorted(answer.first_s * 1000 for answer in answers)
            found[f"throughput_{streams}"] = sum(answer.written for answer in answers) / seconds
            found[f"ttft_p50_{streams}"] = percentile(firsts, 0.50)
            found[f"ttft_p95_{streams}"] = percentile(firsts, 0.95)
            long = [answer for answer in answers if answer.written >= LONG]
            if streams == 1 and long:
                seconds = sum(answer.last_s - answer.first_s for answer in long)
                found["decode"] = sum(answer.written - 1 for answer in long) / seconds
        return found

    async def _together(self, streams: int, name: str, tokens: int, count: int | None = None) -> list[Timed]:
        """`count` requests, `streams` of them at any time."""
        turn = asyncio.Semaphore(streams)

        async def ask(request: int) -> Timed:
            async with turn:
                return await timed(self._http, self._body(self._text(f"{name} {request}", 12), tokens))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(request)) for request in range(count or streams)]
        return [task.result() for task in tasks]

    def _text(self, name: str, words: int) -> str:
        draw = random.Random(f"{self._salt} {name}")
        return " ".join(draw.choice(WORDS) for _ in range(max(1, words)))

    def _body(self, text: str, tokens: int) -> dict[str, Any]:
        """Notes, which differ from the first word on, and the question that makes for a long answer."""
        notes = [{"role": "system", "content": f"Notes: {text}."}] if text else []
        return {
            "model": self._model,
            "messages": [*notes, {"role": "user", "content": QUESTION}],
            "max_tokens": tokens,
            "seed": 1,
        }


def percentile(ordered: list[float], part: float) -> float:
    """The nearest rank, so that what is shown was measured."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]
