"""From the messages of Chat Completions to those that a chat template is given. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from appliance.server import fields, schema, volatile
from appliance.server.fields import invalid, not_supported

# Held so that no body stops the event loop for long while it is checked.
MAX_MESSAGES = 20_000
TEXT = 'only text is served: a string, or parts of the type "text"'


@dataclass(frozen=True)
class Conversation:
    """messages: as `wire.Submit` takes them. left_out: see `volatile`."""

    messages: list[dict[str, Any]]
    left_out: bool


def read(messages: Sequence[schema.Message]) -> Conversation:
    """Raises ApiError that names the message and the field."""
    if not messages:
        raise invalid("messages", "at least one message is needed")
    count = sum(
        (len(m.content) if isinstance(m.content, list) else 1) + len(m.tool_calls or ()) for m in messages
    )
    if count > MAX_MESSAGES:
        raise invalid("messages", f"at most {MAX_MESSAGES} messages, content parts and calls, found {count}")
    calls: set[str] = set()
    found = [_message(message, f"messages[{i}]", calls) for i, message in enumerate(messages)]
    return Conversation([message for message, _ in found], any(left_out for _, left_out in found))


def _message(message: schema.Message, where: str, calls: set[str]) -> tuple[dict[str, Any], bool]:
    """The message, with its content as one string; and whether a changing line was left out of it."""
    if message.role == "function":
        raise not_supported(
            f"{where}.role", ': "function" is of the old interface; use "tool" and tool_call_id'
        )
    for name in ("refusal", "annotations", "audio", "function_call"):
        raw = getattr(message, name)
        if raw is not schema.NULL:
            fields.asks_nothing(raw, f"{where}.{name}")
    called = _calls(message, where, calls)
    texts = _texts(message, where, may_miss=bool(called))
    role = "system" if message.role == "developer" else message.role
    text, left_out = volatile.without(texts) if role == "system" else ("".join(texts), False)
    rendered: dict[str, Any] = {"role": role, "content": text}
    if message.name is not None:
        rendered["name"] = message.name
    if message.reasoning_content is not None:
        if role != "assistant":
            raise invalid(f"{where}.reasoning_content", f"only an assistant reasons, not role {message.role}")
        rendered["reasoning_content"] = message.reasoning_content
    if called:
        rendered["tool_calls"] = called
    if number := _answered(message, where, calls):
        rendered["tool_call_id"] = number
    return rendered, left_out


def _texts(message: schema.Message, where: str, *, may_miss: bool) -> list[str]:
    content = message.content
    if content is None:
        if may_miss:
            return []
        raise invalid(f"{where}.content", "is required")
    if isinstance(content, str):
        return [content]
    return [_part(part, f"{where}.content[{j}]") for j, part in enumerate(content)]


def _part(part: schema.Part, where: str) -> str:
    if part.type != "text":
        raise not_supported(f"{where}.type", f": found {part.type[:40]!r}, and {TEXT}")
    if part.text is None:
        raise invalid(f"{where}.text", "is required")
    for name in ("image_url", "input_audio", "file", "refusal"):
        raw = getattr(part, name)
        if raw is not schema.NULL:
            fields.asks_nothing(raw, f"{where}.{name}")
    return part.text


def _calls(message: schema.Message, where: str, calls: set[str]) -> list[dict[str, Any]]:
    if not message.tool_calls:
        return []
    if message.role != "assistant":
        raise invalid(f"{where}.tool_calls", f"only an assistant calls tools, not role {message.role}")
    found = []
    for j, call in enumerate(message.tool_calls):
        at = f"{where}.tool_calls[{j}]"
        if call.type != "function":
            raise not_supported(f"{at}.type", f": found {call.type[:40]!r}, and only functions are served")
        if call.function is None:
            raise invalid(f"{at}.function", "is required")
        calls.add(call.id)
        function = {"name": call.function.name, "arguments": call.function.arguments}
        found.append({"id": call.id, "type": "function", "function": function})
    return found


def _answered(message: schema.Message, where: str, calls: set[str]) -> str | None:
    """The call that a tool's message answers."""
    number = message.tool_call_id
    if message.role == "tool":
        if number is None:
            raise invalid(f"{where}.tool_call_id", "is required in a message of role tool")
        if number not in calls:
            text = f"no message before this one has a tool call with the id {number[:80]!r}"
            raise invalid(f"{where}.tool_call_id", text)
    elif number is not None:
        raise invalid(f"{where}.tool_call_id", f"belongs to messages of role tool, not {message.role}")
    return number
