"""How much the `multipleOf` of a schema may ask at once. Pure.

llguidance divides as it reads: digit by digit, with one state for each remainder. Before it starts it looks
whether any number can come out at all, through all of those states and held back by none of its limits: for
99,999,989 that took minutes and gigabytes. What holds for the same number multiplies: the parts of an
`allOf`, those of an `anyOf`, what stands beside them, and what a reference brings along.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from appliance.engine.constraint.bounds import TooMuch

MOST = 65_536  # remainders: half a second of work and 40 MB at most
_TOGETHER = ("allOf", "anyOf", "oneOf", "if", "then", "else", "not")


def check(schemas: list[Any], target: Callable[[Any, str], Any]) -> None:
    """Raises TooMuch for all the schemas of one grammar. target: (schema, reference) -> what it leads to."""
    found = {common for schema in schemas for common in _commons(schema, target)}
    if sum(found) > MOST:
        raise TooMuch(f"the multipleOf in it, taken together, are over {MOST}")


def _commons(schema: Any, target: Callable[[Any, str], Any]) -> set[int]:
    """Of each group of schemas that may speak of the same value, the least common multiple."""
    groups: dict[int, int] = {}  # each schema's, by identity; a group is named after its first schema
    given: dict[int, list[Decimal]] = {}
    waiting: list[tuple[Any, int | None]] = [(schema, None)]
    joined: dict[int, int] = {}

    def top(name: int) -> int:
        while name in joined:
            name = joined[name]
        return name

    while waiting:
        node, group = waiting.pop()
        if isinstance(node, list):
            waiting += [(inner, group) for inner in node]
            continue
        if not isinstance(node, dict):
            continue
        if (known := groups.get(id(node))) is not None:  # by a reference, perhaps in a circle
            if group is not None and top(known) != top(group):
                joined[top(known)] = top(group)
            continue
        groups[id(node)] = group = id(node) if group is None else group
        if (number := _number(node.get("multipleOf"))) is not None:
            given.setdefault(group, []).append(number)
        if isinstance(ref := node.get("$ref"), str):
            waiting.append((target(schema, ref), group))
        for key, inner in node.items():
            if key in _TOGETHER:
                waiting.append((inner, group))
            else:  # schemas of parts, or those by their names
                waiting.append((inner, None))
    together: dict[int, list[Decimal]] = {}
    for name, numbers in given.items():
        together.setdefault(top(name), []).extend(numbers)
    return {_common(numbers) for numbers in together.values()}


def _number(value: Any) -> Decimal | None:
    """None: llguidance says what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value:
        return None
    try:
        number = abs(Decimal(str(value)))
    except ValueError:  # of thousands of digits
        number = Decimal("inf")
    if not number.is_finite():
        raise TooMuch(f"the multipleOf in it are over {MOST}")
    return number


def _common(numbers: list[Decimal]) -> int:
    """The least common multiple, in units of the finest of them, without zeros at its end."""
    least = min(int(number.as_tuple().exponent) for number in numbers)
    found = 1
    for number in numbers:
        _, digits, exponent = number.as_tuple()
        coefficient = int("".join(map(str, digits)))
        while coefficient % 10 == 0:
            coefficient //= 10
            exponent = int(exponent) + 1
        shift = int(exponent) - least
        if shift > 30:  # zeros that llguidance would count, too
            return MOST + 1
        found = math.lcm(found, coefficient * 10**shift)
    while found % 10 == 0:
        found //= 10
    return found
