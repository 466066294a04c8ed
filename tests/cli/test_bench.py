"""`lmx bench` against a real appliance with the demonstration model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.standin import Appliance, Lmx, Reply
from tests.e2e.machine import Machine

SHORT = ("--quick", "--rounds", "1", "--only", "speed,tools,json")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("bench"))
    made.up()
    yield made
    made.close()


@pytest.fixture(scope="module")
def saved(machine: Machine) -> dict[str, Any]:
    """One short run, saved."""
    result = Lmx(machine.folder)("bench", *SHORT, "--save", "a.json", "-o", "json")
    assert result.code == 0, result.err
    printed: dict[str, Any] = json.loads(result.out)
    assert printed == json.loads((machine.folder / "a.json").read_text())
    assert [path.name for path in machine.folder.glob("*a.json*")] == ["a.json"]
    return printed


def test_every_speed_is_measured_and_what_is_shown_comes_from_the_values(saved: dict[str, Any]) -> None:
    figures = {figure["name"]: figure for figure in saved["figures"]}
    assert {f"throughput_{n}" for n in (1, 4, 16)} <= set(figures)
    assert {f"ttft_{part}_{n}" for part in ("p50", "p95") for n in (1, 4, 16)} <= set(figures)
    assert {"prefill", "decode", "long_ttft", "next_turn_ttft", "next_turn_cached"} <= set(figures)
    for figure in figures.values():
        assert len(figure["values"]) == 1
        assert figure["values"][0] == figure["median"] == figure["low"] == figure["high"] > 0
    # The long prompt was new to the cache, and its next turn was not.
    assert figures["next_turn_cached"]["median"] > 90


def test_the_demonstration_model_calls_the_tools_that_it_has_learnt(saved: dict[str, Any]) -> None:
    areas = {area["area"]: area for area in saved["quality"]}
    assert set(areas) == {"tools", "json"}
    passed = {cell["name"]: cell["passed"] for area in areas.values() for cell in area["cells"]}
    for name in ("the-only-one", "one-of-two", "two-arguments", "two-at-once", "none-needed"):
        assert passed[f"tools/{name}"] == [True], name
    assert passed["json/in-words"] == [True]
    failed = [cell for area in areas.values() for cell in area["cells"] if cell["passed"] == [False]]
    assert failed
    assert all(cell["why"] for cell in failed)
    assert areas["tools"]["asked"] == len(areas["tools"]["cells"])


def test_one_changed_setting_is_named_beside_what_it_did(machine: Machine, saved: dict[str, Any]) -> None:
    """A worse model in the place of the old one: the tools show it."""
    models = machine.spec()["models"]
    models["demo"]["source"] = models["mini"]["source"]
    machine.write(machine.spec(models=models))
    machine.until_synced()
    try:
        result = Lmx(machine.folder).inside("bench", "--quick", "--only", "tools", "--against", "a.json")
    finally:
        machine.write(machine.spec())
        machine.until_synced()
    assert result.code == 0, result.err
    (changed,) = [line for line in result.out.splitlines() if line.startswith("changed")]
    assert "models.demo.source" in changed
    assert "lmx-demo-mini" in changed
    assert "settings differ" not in result.out
    (tools,) = [line for line in result.out.splitlines() if line.startswith("tools")]
    assert "the-only-one −" in tools


def test_as_a_table(machine: Machine) -> None:
    result = Lmx(machine.folder).inside("bench", "--quick", "--only", "json")
    assert result.code == 0
    assert result.err in (
        "",
        "lmx: failed answers that were cut at their longest: 1; --max-tokens allows more\n",
    )
    head, _, header, row = result.out.splitlines()
    assert head.startswith("demo on ")
    assert header.split() == ["QUALITY", "PASSED", "FAILED"]
    assert row.startswith("json")
    assert "of 8" in row


def test_answers_that_were_cut_are_counted_and_told(machine: Machine) -> None:
    result = Lmx(machine.folder).inside(
        "bench", "--quick", "--only", "chat", "--max-tokens", "2", "-o", "json"
    )
    made = json.loads(result.out)
    assert made["max_tokens"] == 2
    failed = [cell for area in made["quality"] for cell in area["cells"] if not all(cell["passed"])]
    assert 0 < made["cut"] <= len(failed)
    assert sum("cut at its longest" in cell["why"] for cell in failed) == made["cut"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--only", "taste"], "no part 'taste'"),
        (["--within", "5"], "unit"),
        (["-m", "nobody"], "no model 'nobody'"),
        (["--against", "none.json"], "cannot be read"),
        (["--save", "no/folder/a.json"], "no folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(machine: Machine, words: list[str], why: str) -> None:
    result = Lmx(machine.folder).inside("bench", *words)
    assert (result.code, result.out) == (1, "")
    assert why in result.err
    assert result.err.count("\n") == 1


def test_a_file_that_is_no_run_or_one_of_another_format_is_refused(lmx: Lmx, appliance: Appliance) -> None:
    Path(lmx.folder / "a.json").write_text("{}")
    assert "no saved run" in lmx.inside("bench", "--against", "a.json").err
    Path(lmx.folder / "a.json").write_text('{"format": 99, "figures": [], "quality": []}')
    assert "format 99" in lmx.inside("bench", "--against", "a.json").err


def test_a_refusal_ends_the_run_and_saves_nothing(lmx: Lmx, appliance: Appliance) -> None:
    entry = {"id": "demo", "aliases": [], "role": "chat", "active": True, "context": {"effective": 8192}}
    appliance.on("GET /v1/models", {"data": [entry]})
    error = {"message": "slow down", "code": "rate_limited", "type": "rate_limit_error", "param": None}
    appliance.on("POST /v1/chat/completions", Reply({"error": error}, 429))
    result = lmx.inside("bench", "--quick", "--save", "a.json")
    assert result.code == 1
    assert "slow down (rate_limited, HTTP 429)" in result.err
    assert not (lmx.folder / "a.json").exists()
