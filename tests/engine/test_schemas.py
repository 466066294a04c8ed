"""Answers to JSON Schemas of every kind: each is valid, was cut by max_tokens, or was refused with a reason.

The model is small and picks at temperature 1, so that it goes wherever the grammar lets it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from appliance import wire
from tests.engine.client import Engine, Reply
from tests.engine.schemas import Maker, Schema

DEMO = Path(__file__).parents[2] / "examples" / "models" / "lmx-demo-mini"
TOGETHER = 50  # requests at a time: sixteen are in the batch


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = Engine(tmp_path_factory.mktemp("logs") / "engine.log")
    try:
        running.load(DEMO)
        running.send(wire.Configure(context=2048, concurrency=16))
        yield running
    finally:
        running.close()


def outcome(schema: Schema, reply: Reply) -> str:
    """`valid`, `length` or `refused`; anything else fails here."""
    if reply.refused is not None:
        assert reply.refused.code == "unsupported_grammar", reply.refused
        assert len(reply.refused.message) > len("this cannot be enforced: "), reply.refused
        return "refused"
    if reply.finish == "length":
        return "length"
    assert reply.finish == "stop", (schema, reply.text, reply.rows[-1])
    checker = jsonschema.FormatChecker()
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(reply.text))
    return "valid"


def outcomes(engine: Engine, seeds: range) -> Counter[str]:
    found: Counter[str] = Counter()
    for first in range(seeds.start, seeds.stop, TOGETHER):
        some = range(first, min(seeds.stop, first + TOGETHER))
        schemas = [Maker(seed).schema() for seed in some]
        replies = [
            engine.submit(
                "Hello",
                grammar=wire.Grammar("json_schema", json.dumps(schema)),
                max_tokens=96,
                temperature=1.0,
                seed=seed,
            )
            for seed, schema in zip(some, schemas, strict=True)
        ]
        engine.finish(*replies)
        found.update(outcome(schema, reply) for schema, reply in zip(schemas, replies, strict=True))
    return found


def test_random_schemas(demo: Engine) -> None:
    found = outcomes(demo, range(60))
    assert found["valid"] >= 15, found
    assert found["refused"] <= 30, found


@pytest.mark.fuzz
def test_a_thousand_random_schemas(demo: Engine) -> None:
    found = outcomes(demo, range(1000, 2000))
    assert found["valid"] >= 300, found
    assert found["refused"] <= 450, found
