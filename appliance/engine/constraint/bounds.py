"""How large and how nested a grammar may be, so that compiling it takes a second or two at most.

llguidance has limits of its own (`compiler.LIMITS`); these are for what they do not stop in time: the
properties of one object cost their square (1,000: 0.3 s; 5,000: 6 s), and counts in counts of a regular
expression multiply (two of a thousand: 2 s within one step, while every stream waits).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

BYTES = 256 * 1024  # of one grammar, as it was sent
NODES = 8_000  # values in a schema, at any depth
DEPTH = 64  # of a schema; llguidance stops at 128 levels of JSON, which are half as many of schemas
PROPERTIES = 1_000  # of one object
TOGETHER = 40_000  # parts of all tools' schemas ...
SQUARES = 8_000_000  # ... and of their objects the numbers of properties, squared: as one schema may have
REPEATS = 20_000  # counts in counts, multiplied
RULES = (
    1_000  # of a Lark grammar: llguidance follows them on the thread's stack, which 3,000 overflow (8 MiB)
)
ANDS = 8  # regular expressions that must hold together: their states multiply
STACK = 64 * 2**20  # bytes, of the thread that compiles: several times what these bounds need

_COUNT = re.compile(r"\{(\d+)(?:,(\d*))?\}")


class TooMuch(ValueError):
    """Over a bound; says which."""


def parse(text: str) -> Any:
    """A schema, or another grammar written as JSON. Raises TooMuch, or ValueError where it is not JSON."""
    measure(text)
    try:
        found = json.loads(text)
    except RecursionError:
        raise TooMuch(f"it is nested more than {DEPTH} levels deep") from None
    for number, (depth, value) in enumerate(walk(found)):
        if number >= NODES:
            raise TooMuch(f"it has more than {NODES} parts")
        if depth > DEPTH:
            raise TooMuch(f"it is nested more than {DEPTH} levels deep")
        if isinstance(value, dict) and len(value) > PROPERTIES:
            raise TooMuch(f"an object in it has more than {PROPERTIES} properties")
        if isinstance(value, dict) and isinstance(pattern := value.get("pattern"), str):
            regex(pattern)
    return found


def together(schemas: list[Any]) -> None:
    """What is bounded for one schema, for all those of one grammar. Raises TooMuch."""
    parts = squares = 0
    for schema in schemas:
        for _, node in walk(schema):
            parts += 1
            squares += len(node) ** 2 if isinstance(node, dict) else 0
    if parts > TOGETHER:
        raise TooMuch(f"the schemas of the tools have more than {TOGETHER} parts together")
    if squares > SQUARES:
        raise TooMuch("the objects in the schemas of the tools have too many properties together")


def walk(value: Any, depth: int = 0) -> Iterator[tuple[int, Any]]:
    """All values in a JSON value, outermost first, with their depths. Stops below DEPTH."""
    yield depth, value
    if depth <= DEPTH:
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from walk(inner, depth + 1)


def measure(text: str) -> None:
    if len(text.encode(errors="surrogatepass")) > BYTES:
        raise TooMuch(f"it is longer than {BYTES // 1024} KiB")


def regex(text: str) -> None:
    """Raises TooMuch where its counts multiply to more than REPEATS. Brackets and escapes are not counts."""
    measure(text)
    if repeats(text) > REPEATS:
        raise TooMuch(f"the counts in a regular expression multiply to more than {REPEATS}")


def lark(text: str) -> None:
    """A grammar of a client's own. Raises TooMuch. Its `%json` would go round the bounds of schemas."""
    regex(text)
    if text.count(":") > RULES:
        raise TooMuch(f"it has more than {RULES} rules")
    if text.count("&") > ANDS:
        raise TooMuch(f"it has more than {ANDS} expressions that must hold together (&)")
    if "%json" in text:
        raise TooMuch("%json in Lark is not taken; send the schema as a json_schema")


def repeats(pattern: str) -> int:
    """The most often that any part of it may be repeated by counts, one in the other."""
    most, inner = 1, [1]  # inner: of the groups that are open, the most of what they hold so far
    group = 1  # of the group that has just been closed
    at = 0
    while at < len(pattern):
        c = pattern[at]
        if c == "\\":
            at, group = at + 2, 1
            continue
        if c == "[":
            at, group = _end_of_class(pattern, at), 1
            continue
        if c == "(":
            inner.append(1)
        elif c == ")" and len(inner) > 1:
            group = inner.pop()
            inner[-1] = max(inner[-1], group)
            at += 1
            continue
        elif c == "{" and (count := _COUNT.match(pattern, at)) is not None:
            times = max(int(number) for number in count.groups() if number)
            inner[-1] = max(inner[-1], group * max(1, times))
            most = max(most, inner[-1])
            group = group * max(1, times)  # x{9}{9}
            at = count.end()
            continue
        group = 1
        at += 1
    return max(most, *inner)


def _end_of_class(pattern: str, at: int) -> int:
    """Where the brackets that open at `at` have closed."""
    at += 1
    if pattern[at : at + 1] == "^":
        at += 1
    if pattern[at : at + 1] == "]":
        at += 1
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1
