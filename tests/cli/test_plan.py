"""`lmx plan`: the exit status a script goes by, and the table a person reads."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.__main__ import main
from appliance.planning import NotComparable
from tests.cli.standin import Appliance, Lmx, status_document

STEP = {
    "mark": "+/-",
    "action": "load",
    "model": "daily",
    "field": "active",
    "outage": "none",
    "reason": "3.0 GiB next to 2.0 GiB is under 6.8 GiB",
}


@pytest.fixture
def preview(monkeypatch: pytest.MonkeyPatch, lmx: Lmx) -> dict[str, Any]:
    """Stands in for the planner: what it returns, and what it was asked."""
    asked: dict[str, Any] = {"steps": [STEP]}

    def stand_in(
        file: Path, status: dict[str, Any] | None, config: dict[str, Any] | None
    ) -> list[dict[str, Any]]:
        asked.update(file=file, status=status, config=config)
        return list(asked["steps"])

    module = types.ModuleType("appliance.planning")
    module.preview = stand_in  # type: ignore[attr-defined]
    module.NotComparable = NotComparable  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "appliance.planning", module)
    monkeypatch.chdir(lmx.folder)
    return asked


def test_changes_exit_2_and_name_mark_field_and_arithmetic(
    preview: dict[str, Any], appliance: Appliance, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan"]) == 2
    assert preview["status"] == status_document()
    assert preview["config"] == {"spec": {}}
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[:5] == ["+/-", "load", "daily", "active", "none"]
    assert "3.0 GiB next to 2.0 GiB is under 6.8 GiB" in out
    assert "+/- new engine beside the old one" in out
    assert f"1 change, against studio-01 at {appliance.url}" in out


def test_no_changes_exit_0(
    preview: dict[str, Any], appliance: Appliance, capsys: pytest.CaptureFixture[str]
) -> None:
    preview["steps"] = []
    assert main(["plan"]) == 0
    assert "no changes" in capsys.readouterr().out


def test_where_nothing_runs_it_is_the_plan_of_a_start(
    preview: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("lmx.yaml").write_text("version: 1\nactive: null\nmodels: {}\nserver: {port: 9}\n")
    assert main(["plan"]) == 2
    assert preview["status"] is None
    assert "this is what `lmx up` does" in capsys.readouterr().out


def test_json_for_programs(
    preview: dict[str, Any], appliance: Appliance, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "-o", "json"]) == 2
    assert json.loads(capsys.readouterr().out) == {"running": True, "url": appliance.url, "changes": [STEP]}


def test_a_file_that_moves_the_appliance_is_compared_with_where_it_is_now(
    preview: dict[str, Any], appliance: Appliance
) -> None:
    moved = Path("lmx.yaml").read_text().replace(appliance.url.rpartition(":")[2], "9")
    Path("new.yaml").write_text(moved)
    assert main(["plan", "-f", "new.yaml", "--running", "lmx.yaml"]) == 2
    assert preview["status"] is not None
    assert preview["file"] == Path("new.yaml")


def test_a_file_with_mistakes_exits_1(preview: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    Path("lmx.yaml").write_text("version: 2\n")
    assert main(["plan"]) == 1
    assert "lmx.yaml:1:10: version" in capsys.readouterr().err
