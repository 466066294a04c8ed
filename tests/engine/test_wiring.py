"""mlx-lm wires no memory by itself in an engine, also not after an update."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import mlx.core
import mlx_lm
import mlx_lm.generate
import pytest

from appliance.engine import wiring

mx: Any = mlx.core
WORDS = {"set_wired_limit", "maybe_set_recommended_wired_limit"}


def places(root: Path) -> set[tuple[str, str]]:
    """Module and top-level name of everything in mlx-lm that calls what sets the limit."""
    found = set()
    for file in sorted(root.rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        if not any(word in source for word in WORDS):
            continue
        module = ".".join(("mlx_lm", *file.relative_to(root).with_suffix("").parts))
        for statement in ast.parse(source).body:
            for node in ast.walk(statement):
                called = node.func if isinstance(node, ast.Call) else None
                name = getattr(called, "attr", getattr(called, "id", None))
                if name in WORDS:
                    found.add((module, getattr(statement, "name", "?")))
    return found


def test_mlx_lm_sets_the_limit_where_we_know_and_nowhere_else() -> None:
    installed = places(Path(mlx_lm.__file__).parent)
    assert installed == wiring.KNOWN, "look at each new place before engines may run this mlx-lm"


def test_the_reading_of_the_source_sees_what_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("class Engine:\n    def go(self):\n        mx.set_wired_limit(1)\n")
    (tmp_path / "other.py").write_text("def go():\n    return wired\n")
    assert places(tmp_path) == {("mlx_lm.new", "Engine")}


def test_what_engines_use_of_mlx_lm_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(mx, "set_wired_limit", calls.append)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 2**33})
    generate: Any = sys.modules["mlx_lm.generate"]
    for module in (generate, sys.modules["mlx_lm.utils"]):
        monkeypatch.setattr(
            module, "maybe_set_recommended_wired_limit", module.maybe_set_recommended_wired_limit
        )
    wiring.suppress()
    with generate.wired_limit(mlx.core):
        pass
    assert generate.maybe_set_recommended_wired_limit() is None
    assert not calls


def test_without_metal_nothing_is_wired_and_with_it_no_more_than_recommended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(mx, "set_wired_limit", calls.append)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 2**33})
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    wiring.wire(2**30)
    assert (calls, wiring.working_set()) == ([], 0)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    for limit in (2**30, 2**40, 0):
        wiring.wire(limit)
    assert calls == [2**30, 2**33, 0]
    assert wiring.working_set() == 2**33
