"""Random JSON Schemas of many kinds, small enough that a model may fill them.

Not only what is easy: keywords that nobody can follow token by token, schemas that contradict themselves,
and schemas that are none. Each comes out of one seed.
"""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]
NAMES = ("name", "age", "tags", "é", "a b", "x-1", 'say "hi"', "id", "where", "next")
PATTERNS = (
    r"^[a-z]{1,5}$",
    r"^\d{4}-\d{2}$",
    r"^(foo|bar)+$",
    r"^[A-Z][a-z]*( [A-Z][a-z]*)?$",
    r"^\+?[0-9 ]{3,9}$",
    r"[aeiou]x",
    r"^$|^y.*n$",
)
FORMATS = ("date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "hostname", "uri", "iban")
VALUES: tuple[Any, ...] = ("red", "grün", 'a"b\\c', "", 0, -1, 2.5, 1e20, True, None, [], [1, "x"], {"k": 1})


class Maker:
    def __init__(self, seed: int) -> None:
        self._r = random.Random(seed)
        self._defs: list[str] = []

    def schema(self) -> Schema:
        """A whole one, with its definitions."""
        r = self._r
        self._defs = [f"d{n}" for n in range(r.choice((0, 0, 0, 1, 2)))]
        made = self._object(3) if r.random() < 0.6 else self._any(3)
        if self._defs:
            made["$defs"] = {name: self._any(2) for name in self._defs}
        if r.random() < 0.08:
            made = self._spoilt(made)
        return made

    def _any(self, depth: int) -> Schema:
        r = self._r
        if self._defs and r.random() < 0.2:
            return {"$ref": f"#/$defs/{r.choice(self._defs)}"}
        leaves = [self._string, self._integer, self._number, self._enum, self._const, self._simple]
        if depth <= 0 or r.random() < 0.45:
            return r.choice(leaves)()
        holders = [self._object, self._object, self._array, self._array, self._of, self._kinds, self._all]
        return r.choice(holders)(depth - 1)

    # -- leaves --------------------------------------------------------------------------------------

    def _string(self) -> Schema:
        r = self._r
        made: Schema = {"type": "string"}
        kind = r.random()
        if kind < 0.25:
            made["pattern"] = r.choice(PATTERNS)
        elif kind < 0.45:
            made["format"] = r.choice(FORMATS)
        if kind > 0.35:
            if r.random() < 0.7:
                made["maxLength"] = r.randint(0, 12)
            if r.random() < 0.3:
                made["minLength"] = r.randint(0, 6)
        return made

    def _integer(self) -> Schema:
        return {"type": "integer", **self._range(whole=True)}

    def _number(self) -> Schema:
        return {"type": "number", **self._range(whole=False)}

    def _range(self, *, whole: bool) -> Schema:
        r = self._r
        low, high = sorted(r.randint(-500, 500) for _ in range(2))
        ends: Schema = {}
        if r.random() < 0.7:
            ends[r.choice(("minimum", "exclusiveMinimum"))] = low if whole else low + r.choice((0, 0.5, 0.25))
        if r.random() < 0.8:
            ends[r.choice(("maximum", "exclusiveMaximum"))] = high if whole else high + r.choice((0, 0.1))
        if r.random() < 0.15:
            ends["multipleOf"] = r.choice((2, 5, 10) if whole else (0.5, 0.25, 3))
        return ends

    def _enum(self) -> Schema:
        r = self._r
        return {"enum": r.sample(VALUES, r.randint(1, 4))}

    def _const(self) -> Schema:
        return {"const": self._r.choice(VALUES)}

    def _simple(self) -> Schema:
        r = self._r
        return r.choice(
            (
                {"type": "boolean"},
                {"type": "null"},
                {"type": ["string", "null"], "maxLength": 5},
                {"type": ["integer", "boolean"], "minimum": 3},
                {},
            )
        )

    # -- what holds others ---------------------------------------------------------------------------

    def _object(self, depth: int) -> Schema:
        r = self._r
        names = r.sample(NAMES, r.randint(0, 4))
        made: Schema = {"type": "object", "properties": {name: self._any(depth) for name in names}}
        made["required"] = [name for name in names if r.random() < 0.6]
        kind = r.random()
        if kind < 0.6:
            made["additionalProperties"] = False
        elif kind < 0.75:
            made["additionalProperties"] = self._any(0)
        if r.random() < 0.08:
            made["patternProperties"] = {"^n[0-9]$": self._any(0)}
        if r.random() < 0.06:
            made[r.choice(("minProperties", "maxProperties"))] = r.randint(0, 3)
        return made

    def _array(self, depth: int) -> Schema:
        r = self._r
        made: Schema = {"type": "array", "items": self._any(depth)}
        if r.random() < 0.8:
            made["maxItems"] = r.randint(0, 4)
        if r.random() < 0.4:
            made["minItems"] = r.randint(0, 3)
        if r.random() < 0.2:
            made["prefixItems"] = [self._any(0) for _ in range(r.randint(1, 3))]
        if r.random() < 0.2:
            made["items"] = r.choice((False, made["items"]))
        if r.random() < 0.02:
            made["uniqueItems"] = True
        return made

    def _of(self, depth: int) -> Schema:
        r = self._r
        return {r.choice(("anyOf", "anyOf", "oneOf")): [self._any(depth) for _ in range(r.randint(1, 3))]}

    def _kinds(self, depth: int) -> Schema:
        """Objects that a property tells apart."""
        kinds = []
        for name in self._r.sample(("circle", "square", "text"), 2):
            made = self._object(depth)
            made["properties"]["kind"] = {"const": name}
            kinds.append({**made, "required": [*made["required"], "kind"]})
        return {"oneOf": kinds}

    def _all(self, depth: int) -> Schema:
        return {"allOf": [self._object(depth), self._object(0)]}

    def _spoilt(self, made: Schema) -> Schema:
        """With something in it that no mask can hold, or that no schema has."""
        worse: tuple[Schema, ...] = (
            {"not": {"type": "null"}},
            {"if": {"type": "object"}, "then": {"required": ["name"]}},
            {"type": "strin"},
            {"$ref": "#/$defs/nowhere"},
            {"$ref": "https://example.com/schema.json"},
            {"properties": []},
            {"unevaluatedProperties": False},
            {"propertyNames": {"maxLength": 3}},
            {"dependentRequired": {"name": ["age"]}},
            {"type": "string", "pattern": "("},
            {"minimum": "three"},
        )
        return {**made, **self._r.choice(worse)}
