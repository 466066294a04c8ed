"""From the items of the Responses API to a conversation as chat templates know it. Pure.

What was kept of an earlier response comes through here too: its input and its output are items.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from typing import Any

from msgspec import Raw

from appliance.errors import ApiError
from appliance.server import fields
from appliance.server.fields import invalid, not_supported
from appliance.server.parse import parse
from appliance.server.responses import schema
from appliance.server.schema import NULL
from appliance.server.turns import Turns

MOST = 20_000  # items and their parts, so that no body stops the event loop for long
SEALED = "lmx1."  # before reasoning that a client keeps for us: base64 of its text, and no secret

# type -> the fields that such an item has, besides those of every item
_FIELDS: dict[str, frozenset[str]] = {
    "message": frozenset({"role", "content", "phase"}),
    "function_call": frozenset({"call_id", "name", "arguments"}),
    "function_call_output": frozenset({"call_id", "name", "output"}),
    "reasoning": frozenset({"content", "summary", "encrypted_content"}),
}
_EVERY = frozenset({"type", "id", "status", "created_by", "caller", "namespace"})
_TEXT = {
    "user": ("input_text",),
    "system": ("input_text",),
    "developer": ("input_text",),
    "assistant": ("output_text", "input_text"),
}
_PART = frozenset({"type", "text", "annotations", "logprobs", "prompt_cache_breakpoint"})


def read(given: str | list[Raw] | None, where: str = "input") -> list[schema.Item]:
    """The items of a request. Raises ApiError for what no model here could be shown."""
    if given is None:
        return []
    if isinstance(given, str):
        if not given:
            raise invalid(where, "is empty")
        return [schema.Item(role="user", content=given)]
    if len(given) > MOST:
        raise invalid(where, f"at most {MOST} items, found {len(given)}")
    items = [_item(raw, f"{where}[{i}]") for i, raw in enumerate(given)]
    count = len(items) + sum(len(item.content) for item in items if isinstance(item.content, list))
    if count > MOST:
        raise invalid(where, f"at most {MOST} items and parts, found {count}")
    return items


def put(turns: Turns, items: Sequence[schema.Item], where: str = "input") -> None:
    """Add them to a conversation."""
    for i, item in enumerate(items):
        at = f"{where}[{i}]"
        if item.type == "message":
            _message(turns, item, at, apart=i > 0)
        elif item.type == "reasoning":
            turns.thought(_thought(item, at))
        else:
            call = _needed(item.call_id, f"{at}.call_id")
            if item.type == "function_call":
                name = _needed(item.name, f"{at}.name")
                turns.call(call, name, _needed(item.arguments, f"{at}.arguments"), f"{at}.call_id")
            else:
                turns.result(call, _output(item, at), f"{at}.call_id")


def seal(thought: str) -> str:
    """`reasoning.encrypted_content`: opaque to the client, who is shown the reasoning itself anyway."""
    return SEALED + base64.urlsafe_b64encode(thought.encode("utf-8", "replace")).decode("ascii")


def shown(item: schema.Item) -> dict[str, Any]:
    """An item as the API lists it: each with an id, and texts in parts."""
    made: dict[str, Any] = {"type": item.type, "id": item.id or f"item_{secrets.token_hex(16)}"}
    if item.type == "reasoning":
        made["summary"] = [_plain(part) for part in item.summary or ()]
        if isinstance(item.content, list):
            made["content"] = [_plain(part) for part in item.content]
        if item.encrypted_content is not None:
            made["encrypted_content"] = item.encrypted_content
        return made
    made["status"] = item.status or "completed"
    if item.type == "function_call":
        return made | {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
    if item.type == "function_call_output":
        output = item.output if isinstance(item.output, str) else [_plain(p) for p in item.output or ()]
        return made | {"call_id": item.call_id, "output": output}
    mine = item.role == "assistant"
    parts = [schema.Part("", text=item.content)] if isinstance(item.content, str) else item.content or ()
    kind = "output_text" if mine else "input_text"
    content: list[dict[str, Any]] = [
        _plain(part) if part.type == "refusal" else {"type": kind, "text": part.text} for part in parts
    ]
    if mine:
        content = [part | {"annotations": []} if part["type"] == kind else part for part in content]
    return made | {"role": item.role, "content": content}


def _plain(part: schema.Part) -> dict[str, Any]:
    if part.type == "refusal":
        return {"type": part.type, "refusal": part.refusal}
    return {"type": part.type, "text": part.text}


def _item(raw: Raw, where: str) -> schema.Item:
    kind = parse(raw, schema.ItemKind, where).type
    known = _FIELDS.get(kind)
    if known is None:
        more = "; send the item itself" if kind == "item_reference" else ""
        raise not_supported(f"{where}.type", f": found {kind[:40]!r}{more}")
    item = parse(raw, schema.Item, where)
    for name in item.__struct_fields__:
        value = getattr(item, name)
        if value is not None and value is not NULL and name not in _EVERY and name not in known:
            at = f"{where}.{name}"
            raise ApiError("invalid_request", f"{at}: an item of type {kind} has none", param=at)
    fields.asks_nothing(item.caller, f"{where}.caller", ({"type": "direct"},))
    fields.asks_nothing(item.namespace, f"{where}.namespace")
    return item


def _message(turns: Turns, item: schema.Item, where: str, *, apart: bool) -> None:
    role = _needed(item.role, f"{where}.role")
    if item.content is None:
        _needed(None, f"{where}.content")
    content = item.content or ""
    texts = [content] if isinstance(content, str) else _texts(content, f"{where}.content", _TEXT[role])
    if role == "user":
        turns.user(texts)
    elif role == "assistant":
        turns.answer("".join(texts), apart=apart)
    else:
        turns.system(texts)


def _texts(parts: Sequence[schema.Part], where: str, kinds: Sequence[str]) -> list[str]:
    found = []
    for j, part in enumerate(parts):
        at = f"{where}[{j}]"
        if part.type == "refusal" and "output_text" in kinds:
            found.append(_needed(part.refusal, f"{at}.refusal"))
            continue
        if part.type not in kinds:
            text = f": found {part.type[:40]!r}, and only text is served here: {' or '.join(kinds)}"
            raise not_supported(f"{at}.type", text)
        for name in part.__struct_fields__:
            value = getattr(part, name)
            if name not in _PART and value is not None and value is not NULL:
                fields.asks_nothing(value if isinstance(value, Raw) else Raw(b"1"), f"{at}.{name}")
        found.append(_needed(part.text, f"{at}.text"))
    return found


def _output(item: schema.Item, where: str) -> str:
    if item.output is None:
        _needed(None, f"{where}.output")
    output = item.output or ""
    if isinstance(output, str):
        return output
    return "\n".join(_texts(output, f"{where}.output", ("input_text", "output_text")))


def _thought(item: schema.Item, where: str) -> str:
    """The text itself, else what we sealed, else what another service made of it."""
    if isinstance(item.content, list) and item.content:
        return "".join(_texts(item.content, f"{where}.content", ("reasoning_text",)))
    if item.encrypted_content:
        return _unsealed(item.encrypted_content, f"{where}.encrypted_content")
    return "\n".join(_texts(item.summary or (), f"{where}.summary", ("summary_text",)))


def _unsealed(sealed: str, where: str) -> str:
    if not sealed.startswith(SEALED):
        raise invalid(where, "was not made here, and cannot be read; leave the reasoning item out")
    try:
        return base64.b64decode(sealed.removeprefix(SEALED), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise invalid(
            where, "is damaged; send it back as it came, or leave the reasoning item out"
        ) from error


def _needed(value: str | None, where: str) -> str:
    if value is None:
        raise ApiError("invalid_request", f"{where} is required", param=where)
    return value
