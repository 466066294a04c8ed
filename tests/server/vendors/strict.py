"""Holds JSON against the types of a vendor's package, without their leniency.

Their clients build objects without looking (`construct`). Here every required field must be there with its
type, and no field may come that the type does not know, at any depth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pydantic


def strictly(kind: Any, data: Any, *, ours: tuple[str, ...] = ()) -> Any:
    """The object. ours: members that the appliance adds on purpose."""
    found = _adapter(kind).validate_python(data)
    unknown = [path for path in _extras(found, "") if path.rsplit(".", 1)[-1] not in ours]
    assert not unknown, f"{kind} does not know {unknown}"
    return found


def events(raw: bytes | str) -> list[tuple[str | None, Any]]:
    """(name, data) of each event of a stream of Server-Sent Events; comments are left out."""
    text = raw if isinstance(raw, str) else raw.decode()
    assert text.endswith("\n\n")
    found = []
    for block in text.split("\n\n")[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        members = dict(line.split(": ", 1) for line in lines)
        assert len(members) == len(lines)
        found.append((members.get("event"), json.loads(members["data"])))
    return found


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


def _extras(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, pydantic.BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}.{name}"
        for name in type(value).model_fields:
            yield from _extras(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _extras(one, f"{path}[{i}]")
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _extras(one, f"{path}.{name}")
