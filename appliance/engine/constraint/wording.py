"""A schema in words that llguidance follows to the letter, where it says the same in other words.

- `oneOf` where the options exclude each other is `anyOf`: they are of other types, or an object in each
  requires one property to be something else (what OpenAPI calls a discriminator). Any other `oneOf` stays,
  and is refused.
- Dates are those that there are: llguidance knows the lengths of months, but no leap years, and a year 0.
"""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

from appliance.engine.constraint.references import target

_TYPES = frozenset({"string", "number", "boolean", "null", "object", "array"})
_YEAR = r"(000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d\d\d)"
_DAY = r"((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
_FOURTH = r"(0[48]|[2468][048]|[13579][26])"  # two digits, not 00
_DATE = rf"({_YEAR}-{_DAY}|(\d\d{_FOURTH}|{_FOURTH}00)-02-29)"
_TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_DATES = {"date": f"^{_DATE}$", "date-time": f"^{_DATE}T{_TIME}$"}  # RFC 3339
_DATA = ("const", "enum", "default", "examples")  # values, not schemas


def rewritten(root: Any) -> Any:
    """The schema with what can be said in other words said so; a new one where something changed."""
    return _node(root, root)


def _node(node: Any, root: Any) -> Any:
    if isinstance(node, list):
        return [_node(inner, root) for inner in node]
    if not isinstance(node, dict):
        return node
    made = {key: value if key in _DATA else _node(value, root) for key, value in node.items()}
    if isinstance(made.get("format"), str) and made["format"] in _DATES and "pattern" not in made:
        made["pattern"] = _DATES[made.pop("format")]
    options = node.get("oneOf")
    if isinstance(options, list) and options and _exclusive(options, root):
        either = {"anyOf": made.pop("oneOf")}
        if "anyOf" in made:
            made["allOf"] = [*made.get("allOf", []), either]
        else:
            made.update(either)
    return made


def _exclusive(options: list[Any], root: Any) -> bool:
    return all(_apart(one, other) for one, other in combinations([_found(o, root) for o in options], 2))


def _found(node: Any, root: Any) -> Any:
    """What a reference refers to, over a few more."""
    for _ in range(8):
        if not isinstance(node, dict) or set(node) - {"$ref", "title", "description"} or "$ref" not in node:
            return node
        node = target(root, str(node["$ref"]))
    return None


def _apart(one: Any, other: Any) -> bool:
    """Whether surely no value is of both."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    if not _types(one) & _types(other):
        return True
    mine, theirs = _values(one), _values(other)
    if mine is not None and theirs is not None:
        return not mine & theirs
    if _types(one) != {"object"} or _types(other) != {"object"}:
        return False
    for name in set(_names(one)) & set(_names(other)):
        mine, theirs = _values(one["properties"][name]), _values(other["properties"][name])
        if mine is not None and theirs is not None and not mine & theirs:
            return True
    return False


def _types(node: dict[str, Any]) -> set[str]:
    found = node.get("type")
    types = {found} if isinstance(found, str) else set(found) if isinstance(found, list) else _TYPES
    return {"number" if kind == "integer" else str(kind) for kind in types}


def _values(node: Any) -> set[str] | None:
    """All that it may be, as JSON; None: not said. 1 and 1.0 are the same number."""
    if not isinstance(node, dict):
        return None
    found = [node["const"]] if "const" in node else node.get("enum")
    if not isinstance(found, list):
        return None
    whole = [int(v) if isinstance(v, float) and v.is_integer() else v for v in found]
    return {json.dumps(value, sort_keys=True) for value in whole}


def _names(node: dict[str, Any]) -> list[str]:
    """Properties that are required and described."""
    properties, required = node.get("properties"), node.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return []
    return [name for name in required if isinstance(name, str) and name in properties]
