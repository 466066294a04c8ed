"""Answers taken apart, and put together again so that two ways of reading them can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from appliance.engine.answer import plan as plans
from appliance.engine.answer.formats import FORMATS, CallFormat
from appliance.engine.answer.plan import Edges, Plan
from appliance.engine.answer.splitting import Part, Splitter
from appliance.wire import CallPart

START, END = "<think>", "</think>"


def tool(name: str, **properties: str) -> dict[str, Any]:
    """A function whose arguments have these types."""
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": schema}}


WEATHER = tool("get_weather", city="string", days="integer", exact="boolean")
NOTHING = tool("ping")
TOOLS = [WEATHER, NOTHING]


def plan(
    form: CallFormat | str | None,
    *,
    thinks: bool = True,
    inside: bool = False,
    single: bool = False,
    tools: list[dict[str, Any]] = TOOLS,
    names: list[str] | None = None,
) -> Plan:
    """form None: no tools are offered."""
    found = None
    if form is not None:
        form = FORMATS[form] if isinstance(form, str) else form
        found = plans.tools(form, tools, names, single)
    edges, _ = plans.edges(Markers(thinks), found)
    return Plan(edges, "reasoning" if inside else "content", found)


class Markers:
    """What a plan asks of a tokenizer."""

    response_transitions: Edges = {}  # noqa: RUF012
    response_initial_state = None
    structural_markers = ()
    think_start, think_end = START, END

    def __init__(self, thinks: bool) -> None:
        self.has_thinking = thinks


def split(
    made: Plan, pieces: Iterable[str], *, stops: tuple[str, ...] = (), cut: bool = False
) -> tuple[list[tuple[Any, ...]], str | None]:
    """Everything that comes of it, joined, and the stop string that ended it."""
    splitter = Splitter(made, stops)
    parts: list[Part] = []
    for piece in pieces:
        splitter.push(piece)
        parts += splitter.take()
        if splitter.done:
            break
    splitter.end(cut=cut)
    return joined([*parts, *splitter.take()]), splitter.stop


def joined(parts: Sequence[Part]) -> list[tuple[Any, ...]]:
    """Adjacent parts of one kind as one. A call is (call, index, name, arguments); ids are checked here."""
    found: list[tuple[Any, ...]] = []
    for kind, value in parts:
        if isinstance(value, CallPart):
            if value.id is None:
                _, index, name, arguments = found.pop()
                assert index == value.index
                found.append(("call", index, name, arguments + value.arguments))
            else:
                assert value.id.startswith("call_")
                assert len(value.id) == 29
                found.append(("call", value.index, value.name, value.arguments))
        elif found and found[-1][0] == kind and kind != "warning":
            found[-1] = (kind, found[-1][1] + value)
        else:
            found.append((kind, value))
    return found


def texts(parts: Sequence[tuple[Any, ...]], kind: str) -> str:
    return "".join(part[1] for part in parts if part[0] == kind)


def calls(parts: Sequence[tuple[Any, ...]]) -> list[tuple[str, Any]]:
    """Names and arguments, decoded."""
    return [(part[2], json.loads(part[3])) for part in parts if part[0] == "call"]


def written(form: CallFormat, made: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Calls as the table says that they are written."""
    texts = []
    for index, (name, arguments) in enumerate(made):
        between = form.between.replace("{index}", str(index))
        texts.append(f"{form.before}{name}{between}{_arguments(form, arguments)}{form.after}")
    return form.start + form.separator.join(texts) + form.end


def _arguments(form: CallFormat, arguments: dict[str, Any]) -> str:
    shape = form.argument
    if shape is None:
        return json.dumps(arguments, ensure_ascii=False)
    pairs = []
    for key, value in arguments.items():
        if isinstance(value, str) and shape.open is not None and shape.close is not None:
            text = shape.open + value + shape.close
        else:
            text = json.dumps(value, ensure_ascii=False)
        pairs.append(f"{shape.before}{key}{shape.between}{text}{shape.after}")
    return shape.separator.join(pairs)
