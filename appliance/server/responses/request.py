"""From a checked body of /v1/responses to one row of generation. Pure.

What needs a service behind the model (searches, files, images, jobs in the background) is refused by name,
and so is whatever would leave out a part of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
from msgspec import Raw

from appliance import wire
from appliance.errors import ApiError
from appliance.server import answer_format, fields, thinking, tools
from appliance.server.fields import invalid, not_supported, shown
from appliance.server.parse import parse
from appliance.server.responses import items, schema
from appliance.server.schema import NULL
from appliance.server.turns import Turns

LOGPROBS = "message.output_text.logprobs"
SEALED = "reasoning.encrypted_content"
MOST_LOGPROBS = 20
MOST_PAIRS = 16
RANGES: dict[str, tuple[float, float, bool]] = {
    "temperature": (0, 2, True),
    "top_p": (0, 1, False),
    "max_output_tokens": (1, fields.MAX_TOKENS, True),
    "top_logprobs": (0, MOST_LOGPROBS, True),
}
# Values that ask for nothing; null and [] always do.
NOTHING: dict[str, tuple[Any, ...]] = {
    "access_programs": (),
    "background": (False,),
    "context_management": (),
    "conversation": (),
    "image": (),
    "max_tool_calls": (),
    "moderation": (),
    "personality": (),
    "prompt": (),
    "prompt_cache_options": ({"mode": "implicit"},),
    "prompt_cache_retention": ("in_memory", "in-memory"),
    "service_tier": ("auto", "default"),
    "truncation": ("disabled",),
}
# What has no summary is not summed up: `auto` leaves the choice to us.
REASONING: dict[str, tuple[Any, ...]] = {
    "summary": ("auto",),
    "generate_summary": ("auto",),
    "context": ("auto",),
    "mode": ("standard",),
}


@dataclass(frozen=True)
class Wanted:
    """A row, and what its answer must know.

    given: the items that are new in this request. said: members of the response that repeat the request.
    sealed: reasoning comes in a form that a client can keep for us, too.
    """

    row: wire.Submit
    left_out: bool
    given: list[schema.Item]
    said: dict[str, Any]
    sealed: bool = False


def read(body: schema.Prompt, earlier: Sequence[schema.Item] = ()) -> Wanted:
    """earlier: the items of the conversation that `previous_response_id` names. Raises ApiError."""
    for name, nothings in NOTHING.items():
        fields.asks_nothing(getattr(body, name, NULL), name, nothings)
    given = items.read(body.input)
    turns = Turns()
    if body.instructions:
        turns.system([body.instructions])
    items.put(turns, earlier, "previous_response_id")
    items.put(turns, given)
    if not given and not earlier:
        raise invalid("input", "a text or at least one item is needed")
    offer = _offer(body)
    row = wire.Submit(
        rid=0,  # the router numbers it
        messages=turns.messages,
        template_kwargs=_thinking(body.reasoning),
        grammar=_grammar(body.text),
    )
    row = offer.tools.put(row)
    said = offer.said | _said(body)
    if not isinstance(body, schema.ResponseRequest):
        return Wanted(row, turns.left_out, given, said)
    include = _include(body.include)
    row = msgspec.structs.replace(row, sampling=_sampling(body), logprobs=_logprobs(body, include))
    if body.stream_options is not None:
        if not body.stream:
            raise invalid("stream_options", "is allowed only with stream: true")
        if body.stream_options.include_obfuscation:
            raise not_supported("stream_options.include_obfuscation")
    return Wanted(row, turns.left_out, given, said | _filed(body), SEALED in include)


def _sampling(body: schema.ResponseRequest) -> wire.Sampling:
    for name, (low, high, closed) in RANGES.items():
        value = getattr(body, name)
        if value is not None and not (low <= value <= high and (closed or value > low)):
            start = f"from {low}" if closed else f"above {low}"
            raise invalid(name, f"must be {start} to {high}, found {shown(value)}")
    return wire.Sampling(temperature=body.temperature, top_p=body.top_p, max_tokens=body.max_output_tokens)


def _logprobs(body: schema.ResponseRequest, include: Sequence[str]) -> int | None:
    if LOGPROBS not in include and not body.top_logprobs:
        return None
    return body.top_logprobs or 0


def _include(include: list[str] | None) -> list[str]:
    for i, name in enumerate(include or ()):
        if name not in (LOGPROBS, SEALED):
            raise not_supported(f"include[{i}]", f": found {name[:80]!r}; {LOGPROBS} and {SEALED} are")
    return include or []


def _thinking(reasoning: schema.Reasoning | None) -> dict[str, Any] | None:
    if reasoning is None:
        return None
    for name, nothings in REASONING.items():
        fields.asks_nothing(getattr(reasoning, name), f"reasoning.{name}", nothings)
    if reasoning.effort is None:
        return None
    return {"enable_thinking": False} if reasoning.effort == "none" else thinking.of_effort(reasoning.effort)


def _grammar(text: schema.Text | None) -> wire.Grammar | None:
    if text is None:
        return None
    fields.asks_nothing(text.verbosity, "text.verbosity", ("medium",))
    form = text.format
    if form is None:
        return None
    if form.type == "json_schema":
        name = form.name
        if name is None:
            raise ApiError("invalid_request", "text.format.name is required", param="text.format.name")
        return answer_format.json_schema(form.schema, "text.format.schema", name, "text.format.name")
    for key in ("name", "strict", "description"):
        if getattr(form, key) is not None:
            raise invalid(f"text.format.{key}", "is for text.format.type: json_schema")
    fields.asks_nothing(form.schema, "text.format.schema")
    return wire.Grammar("json_object") if form.type == "json_object" else None


# --- tools ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Offer:
    tools: tools.Tools = field(default_factory=tools.Tools)
    said: dict[str, Any] = field(default_factory=dict)


def _offer(body: schema.Prompt) -> _Offer:
    raws = body.tools or []
    size = sum(len(memoryview(raw)) for raw in raws)
    if size > tools.MAX_BYTES:
        raise invalid("tools", f"at most {tools.MAX_BYTES} bytes of tools, found {size}")
    given = [_tool(raw, f"tools[{i}]") for i, raw in enumerate(raws[: tools.MAX_TOOLS + 1])]
    offered = [tool for tool, _ in given]
    tools.check(offered, "tools")
    choice, names, echo = _choice(body.tool_choice, offered)
    parallel = body.parallel_tool_calls is not False
    said = {
        "tools": [plain for _, plain in given],
        "tool_choice": echo,
        "parallel_tool_calls": parallel,
    }
    return _Offer(tools.Tools(offered, choice, names, parallel) if offered else tools.Tools(), said)


def _tool(raw: Raw, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """For the engine, and as the response repeats it."""
    kind = parse(raw, schema.ToolKind, where).type
    if kind != "function":
        raise not_supported(f"{where}.type", f": found {kind[:40]!r}; functions of your own are")
    tool = parse(raw, schema.Tool, where)
    fields.asks_nothing(tool.allowed_callers, f"{where}.allowed_callers", (["direct"],))
    fields.asks_nothing(tool.output_schema, f"{where}.output_schema")
    if tool.defer_loading:
        raise not_supported(f"{where}.defer_loading")
    parameters = tools.parameters(tool.parameters, f"{where}.parameters")
    text, strict = tool.description, tool.strict
    made = tools.function(tool.name, parameters, where, description=text, strict=strict)
    plain = {"type": "function", **made["function"], "strict": strict, "description": text}
    return made, plain


def _choice(raw: Raw, offered: list[dict[str, Any]]) -> tuple[tools.Choice, list[str] | None, Any]:
    """How many calls there must be, the only names allowed, and the choice as it was given."""
    given = fields.small(raw, "tool_choice", _CHOICE)
    choice: tools.Choice = "auto"
    names = None
    if given is None:
        given = "auto"
    elif isinstance(given, str):
        if given not in ("auto", "none", "required"):
            raise invalid("tool_choice", f"is auto, none, required or an object, found {shown(given)}")
        choice = cast(tools.Choice, given)
    elif given.get("type") == "function":
        choice, names = "required", [parse(raw, schema.ToolName, "tool_choice").name]
    elif given.get("type") == "allowed_tools":
        allowed = parse(raw, schema.AllowedTools, "tool_choice")
        choice, names = allowed.mode, [tool.name for tool in allowed.tools]
        if not names:
            raise invalid("tool_choice.tools", "is empty")
    else:
        raise not_supported("tool_choice.type", f": found {shown(given.get('type'))}")
    if choice == "required" and not offered:
        raise invalid("tool_choice", "asks for a call, and there are no tools")
    tools.named(offered, names or (), "tool_choice")
    return choice, names, given


# --- what a response repeats ----------------------------------------------------------------------


def _said(body: schema.Prompt) -> dict[str, Any]:
    text = body.text
    form: dict[str, Any] = {"type": "text"}
    if text is not None and text.format is not None:
        given = text.format
        form = {"type": given.type}
        if given.type == "json_schema":
            form |= {"name": given.name, "schema": given.schema, "strict": given.strict}
            form |= {"description": given.description}
    effort = None if body.reasoning is None else body.reasoning.effort
    return {
        "instructions": body.instructions,
        "previous_response_id": body.previous_response_id,
        "text": {"format": form},
        "reasoning": {"effort": effort, "summary": None},
        "truncation": "disabled",
    }


def _filed(body: schema.ResponseRequest) -> dict[str, Any]:
    metadata = fields.small(body.metadata, "metadata", dict[str, str])
    if len(metadata or ()) > MOST_PAIRS:
        raise invalid("metadata", f"at most {MOST_PAIRS} pairs, found {len(metadata or ())}")
    return {
        "metadata": metadata or {},
        "max_output_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_logprobs": body.top_logprobs,
        "user": body.user,
        "safety_identifier": body.safety_identifier,
        "prompt_cache_key": body.prompt_cache_key,
        "service_tier": "default",
        "background": False,
    }


_CHOICE: Any = str | dict[str, Any]
