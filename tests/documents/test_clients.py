"""docs/clients.md can be pasted: files are well formed, and every address is one that LMX answers at."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")
READERS: dict[str, Callable[[str], Any]] = {
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": yaml.safe_load,
    "python": ast.parse,
}
CLIENTS = [
    "Open WebUI",
    "Continue",
    "Aider",
    "Claude Code",
    "Codex",
    "OpenCode",
    "Cline",
    "Zed",
    "langchain",
    "llama_index",
    "curl",
]


def test_every_block_is_well_formed_in_its_language() -> None:
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
    assert {language for language, _ in blocks} == set(READERS)
    for language, block in blocks:
        assert READERS[language](block)


def test_the_clients_that_people_use_are_there() -> None:
    for name in CLIENTS:
        assert name in PAGE, name


def test_only_clients_of_anthropics_interface_leave_v1_out() -> None:
    for found in re.finditer(r"studio\.local:1234(?!/v1)", PAGE):
        line = PAGE[PAGE.rfind("\n", 0, found.start()) + 1 : PAGE.find("\n", found.end())]
        assert "anthropic" in line.lower() or "stands for your machine" in line, line
