"""The short form of `make chaos`: every kind of fault once, some of them at the same time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from tests.chaos import verdict
from tests.chaos.appliance import appliance
from tests.chaos.faults.engines import Hangs
from tests.chaos.faults.state import DamagedWhileDown
from tests.chaos.run import kinds
from tests.chaos.scene import Scene
from tests.chaos.schedule import schedule
from tests.e2e.machine import ROOT

SEED = 7
CLIENTS = 3
MOST_S = 1.0  # between two faults


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_kind_of_fault_is_survived(tmp_path: Path) -> None:
    # A hang of the computing thread takes its half a minute to be found out: left to `make chaos`.
    chosen = [kind for kind in kinds() if kind is not Hangs]
    with appliance(tmp_path) as machine:
        scene = Scene(machine, SEED)
        report = asyncio.run(scene.play([(len(chosen), chosen), (1, [DamagedWhileDown])], CLIENTS, MOST_S))
        assert report.evidence is not None
        found = report.problems + verdict.failures(report.evidence)
        story = "\n".join(f"{at:8.2f} {what}" for at, what in report.log)
        assert found == [], f"seed {SEED}\n{story}\n{machine.tail(200)}"
    assert len(report.faults) >= 12
    assert sum(report.faults.values()) >= len(chosen)


def test_the_same_seed_gives_the_same_faults() -> None:
    one, other, third = (
        [(pause, repr(fault)) for pause, fault in islice(schedule(seed, kinds()), 100)] for seed in (1, 1, 2)
    )
    assert one == other
    assert one != third


def test_the_seed_holds_across_processes() -> None:
    """Nothing of it may hang on the order of a set or the hash of a string."""
    code = (
        "from itertools import islice; from tests.chaos.run import kinds;"
        "from tests.chaos.schedule import schedule; print(list(islice(schedule(1, kinds()), 100)))"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert len(said) == 1
