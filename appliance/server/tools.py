"""The tools that a request offers, and which of them may be called. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import Raw

from appliance import wire
from appliance.errors import ApiError
from appliance.server import fields, schema
from appliance.server.fields import invalid, not_supported, shown
from appliance.server.parse import parse

MAX_TOOLS = 512
MAX_BYTES = 1024 * 1024  # of all tools together

NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}  # what a function takes that takes nothing

Choice = Literal["auto", "none", "required"]


@dataclass(frozen=True)
class Tools:
    """For `wire.Submit`, under the same names."""

    tools: list[dict[str, Any]] | None = None
    tool_choice: Choice = "auto"
    tool_names: list[str] | None = None
    parallel_tool_calls: bool = True

    def put(self, row: wire.Submit) -> wire.Submit:
        """A `wire.Submit` that offers these."""
        return msgspec.structs.replace(row, **vars(self))


def read(body: schema.ChatRequest, more: Sequence[dict[str, Any]] = ()) -> Tools:
    """more: offered beside those of the body. Raises ApiError."""
    offered = [*_tools(body.tools), *more]
    if more:
        check(offered, "tools")
    return choose(offered, body.tool_choice, body.parallel_tool_calls is not False)


def function(
    name: str, parameters: Any, where: str, *, description: str | None = None, strict: bool | None = None
) -> dict[str, Any]:
    """A tool in Chat Completions' shape. parameters: decoded; None where it takes none. Raises ApiError."""
    if not NAME.fullmatch(name):
        text = f"has 1 to 128 letters, digits and _ . : -, found {shown(name)}"
        raise invalid(f"{where}.name", text)
    made: dict[str, Any] = {"name": name}
    if description is not None:
        made["description"] = description
    made["parameters"] = NOTHING if parameters is None else parameters
    if strict:
        made["strict"] = True
    return {"type": "function", "function": made}


def check(tools: Sequence[dict[str, Any]], where: str) -> None:
    """What can be said only of all of them. Raises ApiError."""
    if len(tools) > MAX_TOOLS:
        raise invalid(where, f"at most {MAX_TOOLS} tools, found {len(tools)}")
    seen: set[str] = set()
    for i, tool in enumerate(tools):
        name = tool["function"]["name"]
        if name in seen:
            raise invalid(f"{where}[{i}]", f"a tool before it is called {name} too")
        seen.add(name)


def choose(offered: list[dict[str, Any]], raw: Raw, parallel: bool) -> Tools:
    """With `tool_choice` of Chat Completions: whether there must be a call, and of which tools."""
    choice, names = _choice(raw)
    if not offered:
        if choice == "required":
            raise invalid("tool_choice", "asks for a call, and there are no tools")
        return Tools()
    named(offered, names or (), "tool_choice")
    return Tools(offered, choice, names, parallel)


def named(offered: Sequence[dict[str, Any]], names: Sequence[str], where: str) -> None:
    """Raises ApiError for a name that no tool has."""
    known = {tool["function"]["name"] for tool in offered}
    for name in names:
        if name not in known:
            raise invalid(where, f"there is no tool {shown(name)} among the request's tools")


def parameters(raw: Raw, where: str) -> dict[str, Any] | None:
    """A function's schema, decoded; None where it takes nothing. Raises ApiError."""
    taken: dict[str, Any] | None = parse(raw, _OBJECT, where)
    if taken is not None and taken.get("type", "object") != "object":
        raise invalid(where, f"must be a schema of the type object, found {shown(taken['type'])}")
    return taken


def _tools(raw: Raw) -> list[dict[str, Any]]:
    if raw is schema.NULL:
        return []
    if len(memoryview(raw)) > MAX_BYTES:
        raise invalid("tools", f"at most {MAX_BYTES} bytes of tools, found {len(memoryview(raw))}")
    found = []
    for i, kind in enumerate(parse(raw, _LIST, "tools") or ()):
        if kind.type != "function":
            text = f": found {shown(kind.type)}, and only function tools are served"
            raise not_supported(f"tools[{i}].type", text)
    for i, tool in enumerate(parse(raw, _TOOLS, "tools") or ()):
        it, where = tool.function, f"tools[{i}].function"
        taken = parameters(it.parameters, f"{where}.parameters")
        found.append(function(it.name, taken, where, description=it.description, strict=it.strict))
    check(found, "tools")
    return found


def _choice(raw: Raw) -> tuple[Choice, list[str] | None]:
    """Whether calls are wanted, and the only names allowed."""
    given = fields.small(raw, "tool_choice", _CHOICE)
    if given is None or given == "auto":
        return "auto", None
    if given == "none":
        return "none", None
    if given == "required":
        return "required", None
    if isinstance(given, str):
        raise invalid("tool_choice", f"is auto, none, required or an object, found {shown(given)}")
    kind = given.get("type")
    data = msgspec.json.encode(given)
    if kind == "function":
        return "required", [parse(data, schema.NamedTool, "tool_choice").function.name]
    if kind == "allowed_tools":
        allowed = parse(data, schema.AllowedTools, "tool_choice").allowed_tools
        if not allowed.tools:
            raise invalid("tool_choice.allowed_tools.tools", "is empty")
        return allowed.mode, [tool.function.name for tool in allowed.tools]
    raise ApiError(
        "not_supported",
        f"tool_choice.type: found {shown(kind)}; function and allowed_tools are served",
        param="tool_choice.type",
    )


_OBJECT: Any = dict[str, Any] | None
_LIST: Any = list[schema.Kind] | None
_TOOLS: Any = list[schema.Tool] | None
_CHOICE: Any = str | dict[str, Any]
