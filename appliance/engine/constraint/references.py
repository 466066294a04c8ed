"""Where the references of a schema lead: round in circles, too deep, or into too much at once.

Circles. `{"$ref": "#"}` alone, or an object that requires another of its own kind, have no finite value.
llguidance follows them: the answer would stop in the middle, or never end. So they are found before: what can
have a finite value is the least fixed point over all references. What contradicts itself otherwise,
llguidance finds.

Depth. llguidance follows references as deep as they go, on the thread's stack: a chain of a thousand objects
ended the process (8 MiB of stack).

At once. What several parts of an `allOf` say of a string becomes one expression, whose states multiply: with
20 patterns 4 s of work, with 500 no end.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from appliance.engine.constraint.bounds import TooMuch
from appliance.engine.constraint.compiler import Unsupported

LEVELS = 500  # of schemas in each other, through references
TOGETHER = 12  # parts that say something of the same string
_PATTERNS = ("pattern", "format")
_ELSEWHERE = frozenset({"$defs", "definitions", "const", "enum"})  # values, and what must be referred to


def check(schema: Any) -> None:
    """Raises Unsupported for a schema with a reference to what has no finite value, and TooMuch."""
    _measure(schema)
    targets = _reached(schema)
    finite: set[str] = set()
    while grown := {ref for ref in targets.keys() - finite if _finite(targets[ref], finite, targets)}:
        finite |= grown
    if endless := sorted(targets.keys() - finite):
        raise Unsupported(f"what {endless[0]!r} refers to requires itself, and so would never end")


def _measure(schema: Any) -> None:
    """Walk as llguidance does: into each reference where it is first met."""
    met: set[str] = set()
    patterns = False
    most = 1
    waiting = [(schema, 1)]
    while waiting:
        node, level = waiting.pop()
        if level > LEVELS:
            raise TooMuch(f"its references lead more than {LEVELS} levels deep")
        if isinstance(node, list):
            waiting += [(inner, level) for inner in node]
        elif isinstance(node, dict):
            patterns = patterns or any(isinstance(node.get(key), str) for key in _PATTERNS)
            most = max(most, _parts(schema, node, set()))
            ref = node.get("$ref")
            if isinstance(ref, str) and ref not in met:
                met.add(ref)
                waiting.append((target(schema, ref), level + 1))
            waiting += [(inner, level + 1) for key, inner in node.items() if key not in _ELSEWHERE]
    if patterns and most > TOGETHER:
        raise TooMuch(f"an allOf in it has more than {TOGETHER} parts, beside patterns or formats")


def _parts(root: Any, node: Any, seen: set[str]) -> int:
    """How many schemas must hold together where this one does."""
    count, waiting = 0, [node]
    while waiting and count <= TOGETHER:
        node = waiting.pop()
        if not isinstance(node, dict):
            continue
        count += 1
        waiting += _list(node.get("allOf"))
        ref = node.get("$ref")
        if isinstance(ref, str) and ref not in seen:
            seen.add(ref)
            waiting.append(target(root, ref))
    return count


def _reached(schema: Any) -> dict[str, Any]:
    """All references that lead from the schema's root to something in it, and what they lead to."""
    found: dict[str, Any] = {}
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            ref = node.get("$ref")
            if isinstance(ref, str) and ref not in found and (there := target(schema, ref)) is not None:
                found[ref] = there
                waiting.append(there)
            waiting += [value for key, value in node.items() if key not in _ELSEWHERE]
        elif isinstance(node, list):
            waiting += node
    return found


def target(root: Any, ref: str) -> Any:
    """What a reference leads to; None: elsewhere, or nowhere, which llguidance says."""
    if not ref.startswith("#"):
        return None
    node = root
    for part in ref[1:].split("/")[1:]:
        part = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return node


def _finite(node: Any, finite: set[str], known: dict[str, Any]) -> bool:
    """Whether it can have a finite value, if these references have one."""
    if not isinstance(node, dict):
        return True
    ref = node.get("$ref")
    if isinstance(ref, str) and ref in known and ref not in finite:
        return False

    def inner(value: Any) -> bool:
        return _finite(value, finite, known)

    if not all(map(inner, _list(node.get("allOf")))):
        return False
    for key in ("anyOf", "oneOf"):
        if (options := _list(node.get(key))) and not any(map(inner, options)):
            return False
    if "const" in node or "enum" in node:
        return True
    types = node.get("type", [])
    others = set(types if isinstance(types, list) else [types]) - {"object", "array"}
    if others:
        return True
    properties, items = node.get("properties"), _list(node.get("prefixItems"))
    if isinstance(properties, dict):
        if not all(inner(properties[name]) for name in _list(node.get("required")) if _has(properties, name)):
            return False
    least = node.get("minItems", 0)
    if isinstance(least, int) and least > 0:
        if not all(map(inner, items[:least])) or (least > len(items) and not inner(node.get("items"))):
            return False
    return True


def _has(properties: dict[str, Any], name: Any) -> bool:
    return isinstance(name, str) and name in properties


def _list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []
