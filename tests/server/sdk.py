"""Answers held against the types that a vendor's own package has for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel

Kind = TypeVar("Kind", bound=BaseModel)

# What Chat Completions and Completions say beyond OpenAI's own: see docs/chat.md.
EXTENSIONS = frozenset({"reasoning_content", "lmx_warning"})


def strict(kind: type[Kind], data: Any, extensions: frozenset[str] = EXTENSIONS) -> Kind:
    """`data`, decoded JSON, as a `kind`: nothing missing, nothing of another type, nothing else but
    `extensions`. Raises pydantic.ValidationError or AssertionError."""
    found = kind.model_validate_json(json.dumps(data), strict=True)
    unknown = set(_extras(found)) - extensions
    assert not unknown, f"{kind.__name__} has no {', '.join(sorted(unknown))}"
    return found


def _extras(value: Any) -> Iterator[str]:
    """Names that the types do not have, at any depth."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for name in type(value).model_fields:
            yield from _extras(getattr(value, name))
    elif isinstance(value, list):
        for item in value:
            yield from _extras(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _extras(item)


def events(body: str) -> list[str]:
    """The data of each Server-Sent Event. Comments are left out."""
    blocks = [block for block in body.split("\n\n") if block and not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks), blocks
    return [block.removeprefix("data: ") for block in blocks]
