"""`lmx diff` against what an appliance says it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from appliance.cli.diff import ABSENT, changes
from reconciler.fields import plain
from reconciler.loader import load_text
from tests.cli.standin import Appliance, Lmx

TEXT = """
version: 1
active: daily
models:
  daily: {{source: builtin:lmx-demo, concurrency: {rows}}}
  {more}
server: {{host: 127.0.0.1, port: {port}}}
name: {name}
"""


def text(lmx: Lmx, rows: int = 8, more: str = "", name: str = "studio") -> str:
    """The stand-in's own file says where it is."""
    port = load_text((lmx.folder / "lmx.yaml").read_bytes(), path=Path("lmx.yaml"), env={}).spec.server.port
    return TEXT.format(rows=rows, more=more, port=port, name=name)


def running(appliance: Appliance, written: str, **env: str) -> None:
    spec = load_text(written.encode(), path=Path("lmx.yaml"), env=env).spec
    told: dict[str, Any] = json.loads(json.dumps(plain(spec, spec.unexpanded), default=str))
    appliance.on("GET /admin/config", {"generation": 3, "digest": "d", "spec": told})


def test_a_file_that_says_what_is_in_force(lmx: Lmx, appliance: Appliance) -> None:
    written = text(lmx)
    running(appliance, written)
    (lmx.folder / "lmx.yaml").write_text("# a comment\n" + written, encoding="utf-8")
    assert lmx("diff").code == 0
    assert json.loads(lmx("diff", "-o", "json").out) == []


def test_each_key_that_differs_and_how_it_takes_effect(lmx: Lmx, appliance: Appliance) -> None:
    running(appliance, text(lmx, more="old: {source: builtin:lmx-demo-mini}"))
    (lmx.folder / "lmx.yaml").write_text(text(lmx, rows=4, more="new: {source: ./x}"), encoding="utf-8")
    result = lmx("diff", "-o", "json")
    found = {one["path"]: one for one in json.loads(result.out)}
    assert result.code == 2
    assert set(found) == {"models.daily.concurrency", "models.old", "models.new"}
    assert found["models.daily.concurrency"] == {
        "path": "models.daily.concurrency",
        "change": "hot",
        "before": 8,
        "after": 4,
    }
    assert "before" not in found["models.new"]
    assert "after" not in found["models.old"]
    shown = lmx("diff")
    assert shown.code == 2
    assert "models.daily.concurrency" in shown.out


def test_what_the_environment_held_is_not_shown(lmx: Lmx, appliance: Appliance) -> None:
    written, other = text(lmx, name="${LMX_NAME}"), text(lmx, name="other")
    running(appliance, written, LMX_NAME="hidden-one")
    (lmx.folder / "lmx.yaml").write_text(written, encoding="utf-8")
    assert lmx("diff", env={"LMX_NAME": "hidden-two"}).code == 0
    running(appliance, other)
    result = lmx("diff", env={"LMX_NAME": "hidden-two"})
    assert result.code == 2
    assert "${LMX_NAME}" in result.out
    assert "hidden" not in result.out + result.err


def test_only_what_differs_is_told() -> None:
    before = {"a": "1", "b": {"c": [1, 2], "d": None}, "gone": {"x": 1}}
    after = {"b": {"c": [1, 3], "d": None}, "a": True, "new": 0}
    assert list(changes(before, after)) == [
        ("b.c", [1, 2], [1, 3]),
        ("a", "1", True),
        ("new", ABSENT, 0),
        ("gone", {"x": 1}, ABSENT),
    ]
    assert list(changes(before, before)) == []
