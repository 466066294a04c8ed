"""docs/developing.md names files and what is in them; they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "developing.md"
NAMED = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:toml|md|json|yaml))(?:::([\w.]+))?`")


def has(tree: ast.AST, name: str) -> bool:
    """Whether a module or class has a function, class or variable of that name, dotted for members."""
    first, _, rest = name.partition(".")
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == first:
            return not rest or has(node, rest)
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if not rest and any(isinstance(target, ast.Name) and target.id == first for target in targets):
            return True
    return False


def test_every_file_and_name_of_the_page_exists() -> None:
    found = NAMED.findall(PAGE.read_text(encoding="utf-8"))
    assert len(found) >= 40
    assert sum(bool(name) for _, name in found) >= 20
    for path, name in found:
        assert (ROOT / path).exists(), path
        if name:
            assert has(ast.parse((ROOT / path).read_text(encoding="utf-8")), name), f"{path}::{name}"


@pytest.mark.parametrize("name", ["no_such", "NAMED.no_such", "has.first_"])
def test_a_name_that_is_not_there_is_missed(name: str) -> None:
    assert not has(ast.parse(Path(__file__).read_text(encoding="utf-8")), name)
