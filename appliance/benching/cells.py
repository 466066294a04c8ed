"""Quality cells: small questions whose answers a program can judge. They live in cells/*.yaml, written by us.

A file is a list of cells. A cell has an `id`, what is asked (`ask`: one question, or `messages`), at will
`system`, `tools` (names of the area's `tools`), `schema` (the answer must follow it), `tokens` (longest
answer), and under `expect` exactly what `judging.py` knows. A file with anything else is refused: a check
that is misspelt would be a check that always passes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "cells"
AREAS = ("chat", "coding", "tools", "json")
KEYS = frozenset({"id", "ask", "messages", "system", "tools", "schema", "tokens", "expect"})
LONGEST = 256  # tokens of an answer, where a cell says nothing else


class BadCells(Exception):
    """A file of cells is wrong; says which cell and how."""


@dataclass(frozen=True)
class Cell:
    """name: AREA/ID. body: fields of a chat-completions request, without model and seed."""

    name: str
    area: str
    body: Mapping[str, Any]
    expect: Mapping[str, Any] = field(default_factory=dict)


def read(folder: Path = FOLDER) -> list[Cell]:
    """Every cell, area by area. Raises BadCells."""
    return [cell for area in AREAS for cell in _area(area, folder / f"{area}.yaml")]


def digest(folder: Path = FOLDER) -> str:
    """Two runs are of the same cells where this is the same."""
    whole = hashlib.sha256()
    for area in AREAS:
        whole.update((folder / f"{area}.yaml").read_bytes())
    return whole.hexdigest()


def _area(area: str, path: Path) -> list[Cell]:
    import yaml

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    tools = content.get("tools") or {}
    cells = [_cell(area, entry, tools) for entry in content["cells"]]
    names = [cell.name for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise BadCells(f"{name} is there twice")
    return cells


def _cell(area: str, entry: Mapping[str, Any], tools: Mapping[str, Any]) -> Cell:
    from appliance.benching.judging import check

    name = f"{area}/{entry.get('id')}"
    if unknown := set(entry) - KEYS:
        raise BadCells(f"{name}: unknown {', '.join(sorted(unknown))}")
    if ("ask" in entry) is ("messages" in entry):
        raise BadCells(f"{name}: either `ask` or `messages`")
    messages = list(entry.get("messages") or [{"role": "user", "content": entry["ask"]}])
    if "system" in entry:
        messages.insert(0, {"role": "system", "content": entry["system"]})
    body: dict[str, Any] = {"messages": messages, "max_tokens": entry.get("tokens", LONGEST)}
    if "tools" in entry:
        missing = [tool for tool in entry["tools"] if tool not in tools]
        if missing:
            raise BadCells(f"{name}: no tool {missing[0]}")
        body["tools"] = [
            {"type": "function", "function": {"name": tool, **tools[tool]}} for tool in entry["tools"]
        ]
    if "schema" in entry:
        form = {"name": str(entry["id"]).replace("-", "_"), "schema": entry["schema"], "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    expect = entry.get("expect") or {}
    try:
        check(expect)
    except ValueError as error:
        raise BadCells(f"{name}: {error}") from error
    return Cell(name, area, body, expect)
