"""What every side is asked: the same prompts and lengths, in the same order, from a seed.

Prompts are all different, so that nobody's prompt cache helps, and about as long as a short question.
Lengths differ within a batch, so that rows end and others join: admission is part of what is measured.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

WORDS = ("model", "fast", "quick", "swap", "file", "edit", "load", "drain", "row", "batch", "token", "cache")


@dataclass(frozen=True)
class Request:
    text: str
    tokens: int  # to generate, exactly


@dataclass(frozen=True)
class Load:
    """`streams` clients, each of which asks its requests one after the other."""

    streams: int
    requests: int
    tokens: tuple[int, int]  # least and most to generate

    def of(self, client: int, round_: int) -> list[Request]:
        rng = random.Random(f"{self.streams}:{client}:{round_}")
        return [
            Request(" ".join(rng.choices(WORDS, k=12)), rng.randint(*self.tokens))
            for _ in range(self.requests)
        ]

    def total(self, round_: int) -> int:
        return sum(r.tokens for client in range(self.streams) for r in self.of(client, round_))


LOADS: dict[str, dict[int, Load]] = {
    "5m": {1: Load(1, 2, (200, 200)), 16: Load(16, 3, (60, 140))},
    "90m": {1: Load(1, 1, (80, 80)), 16: Load(16, 2, (25, 55))},
}
