"""From a checked body of /v1/messages to one row of generation. Pure.

What Anthropic's API has and no local model could do is refused by name. What asks for nothing (a cache
that is automatic here, a tier, a region that was not chosen) is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from appliance import wire
from appliance.errors import ApiError
from appliance.server import answer_format, fields, tools
from appliance.server.fields import invalid, not_supported
from appliance.server.messages import schema
from appliance.server.messages.blocks import conversation, needed
from appliance.server.parse import parse
from appliance.server.schema import NULL

# Numbers: name -> (lowest, highest, whether the lowest itself is allowed)
RANGES: dict[str, tuple[float, float, bool]] = {
    "temperature": (0, 2, True),
    "top_p": (0, 1, False),
    "top_k": (0, 1_000_000, True),
    "max_tokens": (1, fields.MAX_TOKENS, True),
}
# Values that ask for nothing; null and [] always do.
_KEEP_ALL = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
NOTHING: dict[str, tuple[Any, ...]] = {
    "container": (),
    "context_management": ({"edits": []}, _KEEP_ALL),
    "diagnostics": (),
    "inference_geo": (),
    "mcp_servers": (),
    "speed": ("standard",),
}
_LONGER = 128  # bytes: `_KEEP_ALL` as a client may write it


@dataclass(frozen=True)
class Wanted:
    """A row, and what its answer must know. hidden: thinking is done, and not shown."""

    row: wire.Submit
    left_out: bool
    hidden: bool


def read(body: schema.Prompt) -> Wanted:
    """Raises ApiError."""
    for name, nothings in NOTHING.items():
        _asks_nothing(getattr(body, name, NULL), name, nothings)
    _no_thread(body.thread)
    turns = conversation(body)
    thinking = body.thinking
    kwargs, budget = _thinking(thinking)
    row = wire.Submit(
        rid=0,  # the router numbers it
        messages=turns.messages,
        thinking_budget=budget,
        continue_final=_continues(body, turns.messages),
    )
    row = _choice(body.tool_choice, _tools(body)).put(row)
    config = body.output_config
    if config is not None:
        fields.asks_nothing(config.task_budget, "output_config.task_budget")
        if config.effort is not None:
            kwargs["reasoning_effort"] = config.effort
        if config.format is not None:
            where = "output_config.format.schema"
            row = msgspec.structs.replace(row, grammar=answer_format.json_schema(config.format.schema, where))
    if kwargs:
        row = msgspec.structs.replace(row, template_kwargs=kwargs)
    if isinstance(body, schema.MessageRequest):
        row = msgspec.structs.replace(row, sampling=_sampling(body), stop=_stops(body.stop_sequences))
    hidden = thinking is not None and thinking.display == "omitted"
    return Wanted(row, turns.left_out, hidden)


def _sampling(body: schema.MessageRequest) -> wire.Sampling:
    for name, (low, high, closed) in RANGES.items():
        value = getattr(body, name)
        if value is not None and not (low <= value <= high and (closed or value > low)):
            start = f"from {low}" if closed else f"above {low}"
            raise invalid(name, f"must be {start} to {high}, found {fields.shown(value)}")
    return wire.Sampling(
        temperature=body.temperature, top_p=body.top_p, top_k=body.top_k, max_tokens=body.max_tokens
    )


def _stops(stops: list[str] | None) -> list[str]:
    if len(stops or ()) > fields.MAX_STOPS:
        raise invalid(
            "stop_sequences", f"at most {fields.MAX_STOPS} stop sequences, found {len(stops or ())}"
        )
    if "" in (stops or ()):
        raise invalid("stop_sequences", "a stop sequence may not be empty")
    return stops or []


def _thinking(thinking: schema.Thinking | None) -> tuple[dict[str, Any], int | None]:
    """Switches of the chat template, and the budget in tokens."""
    if thinking is None:
        return {}, None
    budget = thinking.budget_tokens
    if thinking.type not in ("enabled", "adaptive", "disabled"):
        more = "; it may be enabled, adaptive or disabled"
        raise not_supported("thinking.type", f": found {thinking.type[:40]!r}{more}")
    if thinking.type == "enabled" and budget is None:
        raise invalid("thinking.budget_tokens", "is required where thinking is enabled")
    if thinking.type != "enabled" and budget is not None:
        raise invalid("thinking.budget_tokens", f"is for thinking that is enabled, not {thinking.type}")
    if budget is not None and not 1 <= budget <= fields.MAX_TOKENS:
        raise invalid("thinking.budget_tokens", f"must be from 1 to {fields.MAX_TOKENS}, found {budget}")
    # adaptive: the model thinks as it does by itself, if it can
    switch = {} if thinking.type == "adaptive" else {"enable_thinking": thinking.type == "enabled"}
    return switch, budget


def _continues(body: schema.Prompt, messages: list[dict[str, Any]]) -> bool:
    """Whether the conversation ends in the beginning of the answer."""
    last = messages[-1]
    if last["role"] != "assistant":
        return False
    where = f"messages[{len(body.messages) - 1}]"
    if "tool_calls" in last:
        raise invalid(where, "the conversation ends in a call; answer it with a tool_result")
    if not last["content"]:
        raise invalid(f"{where}.content", "the beginning of an answer may not be empty; leave it out")
    if body.output_config is not None and body.output_config.format is not None:
        raise invalid("output_config.format", "cannot hold for an answer whose beginning is given")
    return True


# --- tools ----------------------------------------------------------------------------------------


def _tools(body: schema.Prompt) -> list[dict[str, Any]]:
    given = body.tools or []
    size = sum(len(memoryview(raw)) for raw in given)
    if size > tools.MAX_BYTES:
        raise invalid("tools", f"at most {tools.MAX_BYTES} bytes of tools, found {size}")
    found = [_tool(raw, f"tools[{i}]") for i, raw in enumerate(given[: tools.MAX_TOOLS + 1])]
    tools.check(found, "tools")
    return found


def _tool(raw: Raw, where: str) -> dict[str, Any]:
    kind = parse(raw, schema.ToolKind, where).type
    if kind not in (None, "custom"):
        more = "; only tools of your own are, with a name and an input_schema"
        raise not_supported(f"{where}.type", f": found {kind[:40]!r}, a tool that Anthropic defines{more}")
    tool = parse(raw, schema.Tool, where)
    fields.asks_nothing(tool.allowed_callers, f"{where}.allowed_callers", (["direct"],))
    fields.asks_nothing(tool.input_examples, f"{where}.input_examples")
    if tool.defer_loading:
        raise not_supported(f"{where}.defer_loading")
    if tool.input_schema is NULL:
        needed(None, f"{where}.input_schema")
    parameters = tools.parameters(tool.input_schema, f"{where}.input_schema")
    strict = tool.strict
    return tools.function(tool.name, parameters, where, description=tool.description, strict=strict)


def _choice(choice: schema.ToolChoice | None, offered: list[dict[str, Any]]) -> tools.Tools:
    if choice is None:
        return tools.Tools(offered) if offered else tools.Tools()
    if choice.type in ("any", "tool") and not offered:
        raise invalid("tool_choice.type", f"{choice.type} asks for a call, and there are no tools")
    if choice.type != "tool" and choice.name is not None:
        raise invalid("tool_choice.name", "is for tool_choice.type: tool")
    if not offered:
        return tools.Tools()
    parallel = not choice.disable_parallel_tool_use
    if choice.type == "tool":
        name = needed(choice.name, "tool_choice.name")
        tools.named(offered, [name], "tool_choice.name")
        return tools.Tools(offered, "required", [name], parallel)
    if choice.type == "any":
        return tools.Tools(offered, "required", None, parallel)
    return tools.Tools(offered, choice.type, None, parallel)


# --- the rest -------------------------------------------------------------------------------------


def _no_thread(raw: Raw) -> None:
    """A conversation that the server is to keep. The code in `details` is one that Anthropic's clients know:
    they go on without, and send all messages each time."""
    try:
        fields.asks_nothing(raw, "thread")
    except ApiError as error:
        text = "thread is not supported: no conversation is kept here; send all messages each time"
        details = {"details": {"error_code": "thread_unsupported_request"}}
        raise ApiError("not_supported", text, param="thread", details=details) from error


def _asks_nothing(raw: Raw, name: str, nothings: tuple[Any, ...]) -> None:
    if name == "context_management" and fields.SHORT < len(memoryview(raw)) <= _LONGER:
        if parse(raw, object, name) in nothings:
            return
    fields.asks_nothing(raw, name, nothings)
