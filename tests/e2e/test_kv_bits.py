"""`kv_bits` in lmx.yaml: planned with what it saves, batched, answered right, and changed by a reload."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import yaml

from tests.e2e.machine import ROOT, Machine

QUESTIONS = json.loads((ROOT / "examples" / "demo" / "questions.json").read_text())
PLAIN = [case for case in QUESTIONS if "messages" not in case][:12]


def quantised(machine: Machine, bits: int) -> dict[str, Any]:
    spec = machine.spec()
    spec["models"] = {"demo": {**spec["models"]["demo"], "kv_bits": bits}}
    return spec


def planned(machine: Machine, spec: dict[str, Any]) -> dict[str, Any]:
    """The load that `lmx plan` says this file would cause. The appliance does not see it."""
    file = machine.folder / "next.yaml"
    file.write_text(yaml.safe_dump(spec))
    done = subprocess.run(
        [sys.executable, "-m", "appliance.cli", "plan", "-o", "json", "-f", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    changes: list[dict[str, Any]] = json.loads(done.stdout)["changes"]
    [load] = [change for change in changes if change["action"] == "load"]
    return load


def test_a_quantised_model_answers_several_at_once_and_is_reloaded_for_other_bits(machine: Machine) -> None:
    assert "kv_bits 8 saves 11 MiB" in planned(machine, quantised(machine, 8))["reason"]

    machine.up(quantised(machine, 8))
    assert machine.status()["models"]["demo"]["concurrency"]["effective"] == 16
    with ThreadPoolExecutor(len(PLAIN)) as pool:
        said = list(pool.map(machine.answer, [case["question"] for case in PLAIN]))
    assert said == [case["answer"] for case in PLAIN]
    [before] = machine.engines()

    load = planned(machine, quantised(machine, 4))
    assert load["field"] == "models.demo.kv_bits"
    assert "kv_bits 4 saves 13 MiB" in load["reason"]
    machine.write(quantised(machine, 4))
    machine.until_synced("demo")
    machine.until_engines(1)
    assert machine.engines() != [before]
    assert machine.answer("What is the capital of France?") == "The capital of France is Paris."
