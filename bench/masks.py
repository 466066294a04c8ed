"""What following a JSON Schema costs: eight streams with one against eight without, at the wire.

One engine, the same prompts and tokens, in alternating rounds; the ratio is the median of the rounds'. Each
stream has a schema of its own kind, and none is complete before its tokens are used up. Only decoding is
timed: from when each row has a token. What compiling a schema takes is a row of its own, for one that the
engine has not seen, from the request to its first token, less that of a request without.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance import wire
from bench import kv, models
from bench.speed import Row

STREAMS, PROMPT, TOKENS = 8, 64, 200
GOAL = 0.90


def schema(number: int) -> wire.Grammar:
    """A list longer than any answer here, of things with strings, numbers, choices and more lists."""
    thing: dict[str, Any] = {
        "type": "object",
        "properties": {
            f"name{number}": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "kind": {"enum": ["red", "green", "blue"]},
            "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{2,8}$"}, "maxItems": 4},
            "where": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "number"}}]},
        },
        "required": [f"name{number}", "age", "kind", "tags", "where"],
        "additionalProperties": False,
    }
    return wire.Grammar("json_schema", json.dumps({"type": "array", "items": thing, "minItems": 500}))


class Engine(kv.Engine):
    """With a grammar for each row where `first` is set: schemas from that number on."""

    first: int | None = None

    def _submit(self, prompt: int, tokens: int, seed: int) -> None:
        self._rid += 1
        ids = [2 + (seed + 31 * self._rid + 7 * n) % 1000 for n in range(prompt)]
        sampling = wire.Sampling(max_tokens=tokens)
        grammar = None if self.first is None else schema(self.first + self._rid % STREAMS)
        self._send(wire.Submit(self._rid, prompt=ids, ignore_eos=True, sampling=sampling, grammar=grammar))


def run(scratch: Path, rounds: int) -> Iterator[Row]:
    engine = Engine(models.make(scratch / "masks", "5m"), None)
    try:
        free: list[kv.Times] = []
        held: list[kv.Times] = []
        for number in range(rounds + 1):  # the first warms up, and compiles
            for times, first in ((free, None), (held, 0)) if number % 2 else ((held, 0), (free, None)):
                engine.first = first
                times.append(engine.run(STREAMS, PROMPT, TOKENS, seed=number))
        engine.first = 1000
        fresh = engine.run(1, PROMPT, 2, seed=0).first
        engine.first = None
        plain = engine.run(1, PROMPT, 2, seed=0).first
    finally:
        engine.close()
    pairs = list(zip(free[1:], held[1:], strict=True))
    name = f"5m, {STREAMS} streams"
    yield Row(f"{name}: free", statistics.median(1 / f.token for f, _ in pairs), None, unit="tokens/s")
    yield Row(
        f"{name}: with a schema", statistics.median(1 / h.token for _, h in pairs), None, unit="tokens/s"
    )
    yield Row(f"{name}: with a schema / free", statistics.median(f.token / h.token for f, h in pairs), GOAL)
    cpu = statistics.median(f.token_cpu / h.token_cpu for f, h in pairs)
    yield Row(f"{name}: with a schema / free, processor time", cpu, None)
    yield Row("5m: a schema not seen before, to the first token", (fresh - plain) * 1000, None, unit="ms")
