"""How much `multipleOf` may ask of llguidance, which looks through a state for each remainder."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.engine.constraint import multiples, references
from appliance.engine.constraint.bounds import TooMuch

PRIMES = (97, 89, 83, 79, 73, 71)


def check(*schemas: Any) -> None:
    multiples.check(list(schemas), references.target)


@pytest.mark.parametrize(
    "schema",
    [
        {"multipleOf": 65_536},
        {"multipleOf": 5_000_000},  # as 5: only the last digits count
        {"multipleOf": 0.01},
        {"properties": {f"p{prime}": {"multipleOf": prime} for prime in PRIMES}},
        {"prefixItems": [{"multipleOf": prime} for prime in PRIMES]},
        {"properties": {f"p{n}": {"multipleOf": 1024} for n in range(900)}},  # the same states for all
        {"allOf": [{"multipleOf": 1024}, {"multipleOf": 4096}]},
        {"multipleOf": 0},  # llguidance says what is wrong with it
        {"multipleOf": True},
        {"properties": {"multipleOf": {"type": "integer"}}},
        {"$ref": "#", "multipleOf": 7},
    ],
    ids=str,
)
def test_what_each_number_may_be_held_to(schema: Any) -> None:
    check(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"multipleOf": 99_999_989},
        {"type": "integer", "not": {"multipleOf": 99_999_989}},
        {"multipleOf": -1_000_003},
        {"multipleOf": 12.34567},
        {"multipleOf": float("inf")},
        {"items": {"anyOf": [{"multipleOf": prime} for prime in PRIMES]}},
        {"allOf": [{"multipleOf": 1e-40}, {"multipleOf": 1e40}]},
        {"multipleOf": 997, "anyOf": [{"multipleOf": 991}, {"type": "string"}]},
        {"$defs": {"a": {"multipleOf": 997}}, "$ref": "#/$defs/a", "multipleOf": 991},
        {
            "properties": {
                "a": {"anyOf": [{"$ref": "#/properties/b"}, {"multipleOf": 997}]},
                "b": {"multipleOf": 991},
            }
        },
        {"properties": {f"p{n}": {"multipleOf": n} for n in range(9001, 9021)}},  # each for itself, and all
    ],
    ids=str,
)
def test_what_is_too_much(schema: Any) -> None:
    with pytest.raises(TooMuch, match="multipleOf"):
        check(schema)


def test_the_schemas_of_all_tools_count_together() -> None:
    schemas = [{"multipleOf": 40_009}, {"multipleOf": 40_013}]
    for schema in schemas:
        check(schema)
    with pytest.raises(TooMuch):
        check(*schemas)
