"""What form an answer must have: `response_format` as a grammar that the engine keeps to. Pure.

Besides OpenAI's three types there are two of our own: `{"type": "regex", "pattern": ...}`, which the whole
answer matches, and `{"type": "grammar", "grammar": ...}` in the dialect of Lark that llguidance reads
(https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md). Whether a grammar can be enforced only
an engine knows: it refuses with `unsupported_grammar` what cannot.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import Raw

from appliance import wire
from appliance.server import schema
from appliance.server.fields import invalid, not_supported, shown
from appliance.server.parse import parse

MAX_BYTES = 256 * 1024  # of a schema, a pattern or a grammar
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KINDS = "text, json_object, json_schema, regex and grammar"


def read(raw: Raw) -> wire.Grammar | None:
    """`response_format`. None: any text. Raises ApiError."""
    where = "response_format"
    if raw is schema.NULL:
        return None
    if len(memoryview(raw)) > MAX_BYTES:
        raise invalid(where, f"at most {MAX_BYTES} bytes, found {len(memoryview(raw))}")
    given = parse(raw, _OBJECT, where)
    if given is None:
        return None
    kind = given.get("type")
    if kind == "text":
        parse(raw, schema.PlainText, where)
        return None
    if kind == "json_object":
        parse(raw, schema.PlainText, where)
        return wire.Grammar("json_object")
    if kind == "json_schema":
        found = parse(raw, schema.JsonFormat, where).json_schema
        return json_schema(
            found.schema, f"{where}.json_schema.schema", found.name, f"{where}.json_schema.name"
        )
    if kind == "regex":
        return wire.Grammar("regex", _text(parse(raw, schema.RegexFormat, where).pattern, f"{where}.pattern"))
    if kind == "grammar":
        return wire.Grammar("lark", _text(parse(raw, schema.LarkFormat, where).grammar, f"{where}.grammar"))
    raise not_supported(f"{where}.type", f": found {shown(kind)}; there are {_KINDS}")


def json_schema(raw: Raw, where: str, name: str | None = None, named: str = "") -> wire.Grammar:
    """A schema, as the client wrote it. name: of the format, which OpenAI demands; `named` is its place."""
    if name is not None and not NAME.fullmatch(name):
        raise invalid(named, f"a name has 1 to 64 letters, digits, '_' and '-', found {shown(name)}")
    if len(memoryview(raw)) > MAX_BYTES:
        raise invalid(where, f"at most {MAX_BYTES} bytes, found {len(memoryview(raw))}")
    if raw is schema.NULL or not isinstance(parse(raw, object, where), dict | bool):
        raise invalid(where, "must be a JSON Schema, an object")
    return wire.Grammar("json_schema", str(memoryview(raw), "utf-8"))


def _text(text: str, where: str) -> str:
    if not text:
        raise invalid(where, "is empty")
    return text


_OBJECT: Any = dict[str, Any] | None
