"""Tools of a client's own, as the engine takes them from every API family. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec import Raw

from appliance.server.fields import invalid
from appliance.server.parse import parse
from appliance.server.schema import NULL

MOST = 512
LONGEST = 1 << 20  # bytes of one tool's schema
_NAME = re.compile(r"^[A-Za-z0-9_.:-]{1,128}\Z")
_NOTHING = {"type": "object", "properties": {}}  # the schema of a function that takes no arguments
_SCHEMA: Any = dict[str, Any] | None


def function(
    name: str, description: str | None, parameters: Raw, strict: bool | None, where: str, param: str
) -> dict[str, Any]:
    """One tool in the shape of Chat Completions. param: what the family calls its schema."""
    if not _NAME.match(name):
        raise invalid(f"{where}.name", "a tool's name has 1 to 128 letters, digits and _ - . :")
    schema: dict[str, Any] | None = None
    if parameters is not NULL:
        if len(memoryview(parameters)) > LONGEST:
            raise invalid(f"{where}.{param}", f"is longer than {LONGEST} bytes")
        schema = parse(parameters, _SCHEMA, f"{where}.{param}")
    if schema is not None and schema.get("type", "object") != "object":
        raise invalid(f"{where}.{param}", "must be a JSON Schema of the type object")
    made: dict[str, Any] = {"name": name}
    if description is not None:
        made["description"] = description
    made["parameters"] = _NOTHING if schema is None else schema
    if strict:
        made["strict"] = True
    return {"type": "function", "function": made}


def check(tools: Sequence[dict[str, Any]]) -> None:
    """What can be said only of all of them."""
    if len(tools) > MOST:
        raise invalid("tools", f"at most {MOST} tools, found {len(tools)}")
    seen: set[str] = set()
    for i, tool in enumerate(tools):
        name = tool["function"]["name"]
        if name in seen:
            raise invalid(f"tools[{i}].name", f"{name!r} is given twice; names differ")
        seen.add(name)


def named(tools: Sequence[dict[str, Any]], name: str, where: str) -> str:
    """A tool that a choice names. Raises ApiError where there is none."""
    if any(tool["function"]["name"] == name for tool in tools):
        return name
    raise invalid(where, f"there is no tool {name[:80]!r} in tools")
