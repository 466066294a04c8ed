"""`lmx up --record` on a real appliance, and `lmx simulate` on what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from reconciler.history import History
from tests.e2e.machine import LIMIT_S, ROOT, Machine

POLICY = ("Pressure", "StepTaken", "StepUndone", "Thermal", "EngineRunaway")


def simulated(machine: Machine, trace: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "appliance.cli", "simulate", trace, "-f", machine.file, "-o", "json"],
        cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def messages(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["type"], event["message"]) for event in events if event["type"] in POLICY]


def test_what_was_recorded_replays_to_the_decisions_that_were_made(machine: Machine, tmp_path: Path) -> None:
    """The machine's size, heat and pressure are made up; appliance, engine and its memory are real."""
    controls, trace = tmp_path / "controls", tmp_path / "trace.jsonl"
    (controls / "hogs").mkdir(parents=True)
    program = (
        "import sys; from pathlib import Path; from appliance.app import run\n"
        "from tests.chaos.small_machine import SmallMachine\n"
        f"sys.exit(run(Path({str(machine.file)!r}), SmallMachine(Path({str(controls)!r})), "
        f"record=Path({str(trace)!r})))"
    )
    machine.command = [sys.executable, "-c", program]
    machine.up(machine.spec(memory={"dwell": "500ms"}, context={"safe_mode": 512}))
    assert machine.answer("The capital of France is", max_tokens=3)

    (controls / "heat").write_text("heavy")
    hot = machine.until(lambda s: s["models"]["demo"]["context"]["why"].startswith("thermal"))
    assert hot["models"]["demo"]["context"]["why"] == "thermal: max_context_tokens=512"
    (controls / "heat").write_text("nominal")
    machine.until(lambda s: len([e for e in s["events"] if e["type"] == "Thermal"]) == 2)

    (controls / "pressure").write_text("critical")
    machine.until(lambda s: s["memory"]["step"] == "lower_context")
    (controls / "pressure").unlink()
    machine.until(lambda s: len([e for e in s["events"] if e["type"] == "StepUndone"]) == 5)
    assert machine.stop() == 0

    history = History(tmp_path / "state" / "history.db")
    live = messages([event.as_dict() for event in history.events(limit=1000)])
    history.close()
    replayed = simulated(machine, trace)
    assert messages(replayed["decisions"]) == live
    assert [kind for kind, _ in live].count("StepTaken") == 5
    assert replayed["end"]["steps"] == []


def test_a_recording_of_an_ordinary_run(machine: Machine, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    machine.command += ["--record", str(trace)]
    machine.up()
    machine.answer("The capital of France is", max_tokens=3)
    assert machine.stop() == 0
    readings = [json.loads(line) for line in trace.read_text().splitlines()]
    engines = [engine for reading in readings for engine in reading.get("engines", [])]
    assert {engine["model"] for engine in engines} == {"demo"}
    assert any(engine["memory"] > 0 and engine.get("active") for engine in engines)
    assert all(reading["budget"] > 0 for reading in readings)
    assert simulated(machine, trace)["readings"] == len(readings)
    assert trace.stat().st_mode & 0o777 == 0o600


def test_where_nothing_can_be_recorded_nothing_starts(machine: Machine, tmp_path: Path) -> None:
    machine.write(machine.spec())
    machine.command += ["--record", str(tmp_path / "nowhere" / "trace.jsonl")]
    machine.up(wait=False)
    assert machine.process is not None
    assert machine.process.wait(LIMIT_S) == 1
    assert "trace.jsonl cannot be recorded to: No such file or directory" in machine.tail()
