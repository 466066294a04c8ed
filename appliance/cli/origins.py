"""A configuration as YAML, with a comment at each value: where it comes from, and what is in force instead.

What is printed is a valid file of the same meaning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

INDENT = "  "
COLUMN = 44  # where comments begin
LONG = 90  # a line with a value beyond this has its comment above


def annotated(answer: Mapping[str, Any]) -> Iterator[str]:
    """Lines. answer: `spec`, `origins` and, of an appliance, `effective`, `in_force` and `generation`."""
    origins = answer.get("origins") or {}
    yield from _head(answer)
    yield from _map(answer["spec"], "", 0, origins, answer.get("effective") or {}, _names(origins))


def _head(answer: Mapping[str, Any]) -> Iterator[str]:
    force = answer.get("in_force")
    if not force:
        return
    words = [f"generation {force['generation']}" if force["generation"] else "no file has been valid yet"]
    if force["suspended"]:
        newest = answer.get("generation")
        waits = f", while generation {newest} waits" if newest != force["generation"] else ""
        words.append(f"suspended{waits}")
    if force["tried"]:
        words.append("with a tried spec over it")
    yield f"# {', '.join(words)}"


def _map(
    data: Mapping[str, Any],
    path: str,
    depth: int,
    origins: Mapping[str, Mapping[str, Any]],
    effective: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str],
) -> Iterator[str]:
    for key, value in data.items():
        here = f"{path}.{key}" if path else str(key)
        start = f"{INDENT * depth}{_inline(key)}:"
        if here not in origins and isinstance(value, Mapping) and value:
            yield start
            yield from _map(value, here, depth + 1, origins, effective, names)
            continue
        text, note = f"{start} {_inline(value)}", _note(origins.get(here), effective.get(here), names)
        if not note:
            yield text
        elif len(text) > LONG:
            yield f"{INDENT * depth}# {note}"
            yield text
        else:
            yield f"{text:<{COLUMN}} # {note}"


def _note(
    origin: Mapping[str, Any] | None, effective: Mapping[str, Any] | None, names: Mapping[str, str]
) -> str:
    parts = [_origin(origin, names)] if origin else []
    if effective:
        why = f", {effective['why']}" if effective.get("why") else ""
        parts.append(f"in force: {effective['value']}{why}")
    return "; ".join(parts)


def _origin(origin: Mapping[str, Any], names: Mapping[str, str]) -> str:
    if origin["kind"] == "default":
        return "default"
    place = names.get(origin.get("file", ""), "")
    place += f":{origin['line']}:{origin['column']}" if origin.get("line") else ""
    words = {"environment": "from the environment, ", "try": "tried, "}
    return f"{words.get(origin['kind'], '')}{place}"


def _names(origins: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """As short as they stay different: without the folder that all local files share."""
    files = {str(origin["file"]) for origin in origins.values() if origin.get("file")}
    local = [file for file in files if os.path.isabs(file)]
    shared = os.path.dirname(local[0]) if len(local) == 1 else os.path.commonpath(local) if local else ""
    return {file: os.path.relpath(file, shared) if file in local else file for file in files}


def _inline(value: Any) -> str:
    """One value on one line of YAML."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1_000_000)
    return text.removesuffix("\n...\n").removesuffix("\n")
