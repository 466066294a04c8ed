"""`lmx plan` reckons with the machine's figures, and with the running appliance's where that knows more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.planning import NotComparable, preview

MIB = 2**20
DEMO = Path(__file__).parents[2] / "examples/models/lmx-demo"


def spec(active: str | None, budget: str = "auto") -> dict[str, Any]:
    return {
        "version": 1,
        "active": active,
        "models": {"demo": {"source": str(DEMO), "context": 4096}},
        "memory": {"budget": budget},
    }


def written(folder: Path, content: dict[str, Any]) -> Path:
    file = folder / "lmx.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def running(budget: int | None) -> dict[str, Any]:
    return {"models": {}, "active": {"actual": None}, "memory": {"budget_bytes": budget}}


def loads(steps: list[dict[str, Any]]) -> bool:
    return any(step["action"] == "load" for step in steps)


def test_against_an_empty_machine(tmp_path: Path) -> None:
    assert loads(preview(written(tmp_path, spec("demo")), None))


@pytest.mark.parametrize(("budget", "fits"), [(4096 * MIB, True), (64 * MIB, False), (None, True)])
def test_against_an_appliance_auto_is_what_it_is_there(
    tmp_path: Path, budget: int | None, fits: bool
) -> None:
    steps = preview(written(tmp_path, spec("demo")), running(budget), {"spec": spec(None)})
    assert loads(steps) == fits


def test_a_declared_budget_is_not_the_appliances_of_before(tmp_path: Path) -> None:
    file = written(tmp_path, spec("demo", "4GiB"))
    assert loads(preview(file, running(64 * MIB), {"spec": spec(None, "64MiB")}))


def test_an_appliance_whose_spec_cannot_be_read_here_is_not_taken_for_an_empty_machine(
    tmp_path: Path,
) -> None:
    there = {**spec("demo"), "name": "${LMX_NAME_OF_THAT_MACHINE}"}
    with pytest.raises(NotComparable, match="LMX_NAME_OF_THAT_MACHINE"):
        preview(written(tmp_path, spec("demo")), running(4096 * MIB), {"spec": there})
