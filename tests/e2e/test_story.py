"""What `lmx metrics`, `lmx explain` and `lmx events` tell of a real appliance that something happened to."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.e2e.machine import ROOT, Machine


def lmx(machine: Machine, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "appliance.cli", *words, "--file", str(machine.file)],
        cwd=machine.folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(machine.folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_a_crash_reads_as_one_story(machine: Machine) -> None:
    machine.up()
    machine.answer("Who are you?")
    machine.engines()[0].kill()
    machine.until(lambda s: s["summary"] == "Ready" and any(e["type"] == "EngineFailed" for e in s["events"]))
    story = lmx(machine, "explain", "demo").splitlines()
    assert story[0].startswith("demo  ready  since ")
    assert any(line.startswith("role     active") for line in story)
    assert any(line.startswith("context  8192") for line in story)
    assert any("measured" in line and "forecast" in line for line in story if line.startswith("memory"))
    kinds = [line.split()[2] for line in story[story.index("") + 1 :]]
    ready = [index for index, kind in enumerate(kinds) if kind == "EngineReady"]
    assert len(ready) == 2
    assert ready[0] < kinds.index("EngineFailed") < ready[1]
    other = lmx(machine, "explain", "mini")
    assert "EngineFailed" not in other
    assert "`lmx models load mini`" in other

    failed = json.loads(lmx(machine, "events", "--model", "demo", "--type", "EngineFailed", "-o", "json"))
    assert [(event["data"]["model"], event["data"]["reason"]) for event in failed] == [("demo", "crash")]
    assert json.loads(lmx(machine, "events", "--since", "1h", "-o", "json"))[0]["type"] == "Started"

    page = lmx(machine, "metrics")
    assert "speed " in page
    assert "memory    [" in page
    assert any(line.split()[:2] == ["demo", "ready"] for line in page.splitlines())
    found = json.loads(lmx(machine, "metrics", "-o", "json"))
    assert found["memory"]["level"] == "normal"
    assert found["breakers"]["hub"]["state"] == "closed"
