"""From Anthropic's messages and blocks to a conversation as chat templates know it. Pure."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from appliance.errors import ApiError
from appliance.server import fields
from appliance.server.fields import invalid
from appliance.server.messages import schema
from appliance.server.parse import parse
from appliance.server.schema import NULL
from appliance.server.turns import Turns

MOST = 20_000  # messages and blocks, so that no body stops the event loop for long

# type -> the fields that such a block has, besides those of every block
_FIELDS: dict[str, frozenset[str]] = {
    "text": frozenset({"text", "citations"}),
    "thinking": frozenset({"thinking", "signature"}),
    "redacted_thinking": frozenset({"data"}),
    "tool_use": frozenset({"id", "name", "input", "caller", "toolset_name"}),
    "tool_result": frozenset({"tool_use_id", "content", "is_error", "toolset_name"}),
}
_EVERY = frozenset({"type", "cache_control"})
_ROLES = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}
_CALLER = ({"type": "direct"},)


def conversation(body: schema.Prompt) -> Turns:
    """Raises ApiError for what is wrong in it, and for what no model here could be shown."""
    if not body.messages:
        raise invalid("messages", "at least one message is needed")
    _count(body)
    turns = Turns()
    if body.system:
        turns.system(_texts(body.system, "system"))
    for i, message in enumerate(body.messages):
        where = f"messages[{i}]"
        if message.role == "system":
            turns.system(_texts(message.content, f"{where}.content"))
        elif message.role == "user":
            _user(turns, message.content, f"{where}.content")
        else:
            _assistant(turns, message.content, f"{where}.content", new=i > 0)
    return turns


def _count(body: schema.Prompt) -> None:
    count = len(body.messages)
    for message in body.messages:
        for block in message.content if isinstance(message.content, list) else ():
            count += 1 + (len(block.content) if isinstance(block.content, list) else 0)
    if count > MOST:
        raise invalid("messages", f"at most {MOST} messages and content blocks, found {count}")


def _user(turns: Turns, content: str | list[schema.Block], where: str) -> None:
    if isinstance(content, str):
        turns.user([content])
        return
    texts: list[str] = []
    for j, block in enumerate(content):
        at = f"{where}[{j}]"
        _check(block, at, "user")
        if block.type == "text":
            texts.append(needed(block.text, f"{at}.text"))
            continue
        if texts:
            turns.user(texts)
            texts = []
        turns.result(needed(block.tool_use_id, f"{at}.tool_use_id"), _result(block, at), f"{at}.tool_use_id")
    if texts or not content:
        turns.user(texts)


def _assistant(turns: Turns, content: str | list[schema.Block], where: str, *, new: bool) -> None:
    apart = new
    if isinstance(content, str):
        turns.answer(content, apart=apart)
        return
    if not content:
        turns.answer("", apart=apart)
    for j, block in enumerate(content):
        at = f"{where}[{j}]"
        _check(block, at, "assistant")
        if block.type == "text":
            turns.answer(needed(block.text, f"{at}.text"), apart=apart)
            apart = False
        elif block.type == "thinking":
            turns.thought(needed(block.thinking, f"{at}.thinking"))
        elif block.type == "redacted_thinking":  # encrypted by others: no model here could read it
            turns.answer("")
        else:
            number, name = needed(block.id, f"{at}.id"), needed(block.name, f"{at}.name")
            turns.call(number, name, _object(block.input, f"{at}.input"), f"{at}.id")


def _result(block: schema.Block, where: str) -> str:
    """A result as the model sees it. An error says so: templates have no other place for it."""
    if block.content is None:
        text = ""
    elif isinstance(block.content, str):
        text = block.content
    else:
        for k, part in enumerate(block.content):
            _check(part, f"{where}.content[{k}]", "system")
        text = "\n".join(needed(p.text, f"{where}.content[{k}].text") for k, p in enumerate(block.content))
    return f"Error: {text}" if block.is_error else text


def _texts(content: str | list[schema.Block], where: str) -> list[str]:
    if isinstance(content, str):
        return [content]
    for j, block in enumerate(content):
        _check(block, f"{where}[{j}]", "system")
    return [needed(block.text, f"{where}[{j}].text") for j, block in enumerate(content)]


def _check(block: schema.Block, where: str, role: str) -> None:
    """Its type is served in such a message, and it has the fields of that type and no others."""
    known = _FIELDS.get(block.type)
    if known is None:
        more = "; only text is served" if block.type in ("image", "document") else ""
        raise fields.not_supported(f"{where}.type", f": found {block.type[:40]!r}{more}")
    if block.type not in _ROLES[role]:
        raise invalid(f"{where}.type", f"{block.type} is not allowed here")
    for name in block.__struct_fields__:
        value = getattr(block, name)
        if value is None or value is NULL or name in _EVERY:
            continue
        if name not in known:
            raise ApiError(
                "invalid_request",
                f"{where}.{name}: a block of type {block.type} has none",
                param=f"{where}.{name}",
            )
    fields.asks_nothing(block.citations, f"{where}.citations")
    fields.asks_nothing(block.caller, f"{where}.caller", _CALLER)
    fields.asks_nothing(block.toolset_name, f"{where}.toolset_name")


def needed(value: str | None, where: str) -> str:
    if value is None:
        raise ApiError("invalid_request", f"{where} is required", param=where)
    return value


def _object(raw: Raw, where: str) -> str:
    """A JSON object, as the text that it came in."""
    if raw is NULL:
        raise ApiError("invalid_request", f"{where} is required", param=where)
    parse(raw, dict[str, msgspec.Raw], where)
    return str(memoryview(raw), "utf-8")
