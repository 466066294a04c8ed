"""Fifty times under load, and failures that take their time: `make upgrade`."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.machine import LIMIT_S, gone
from tests.upgrade.held import Held
from tests.upgrade.load import Load
from tests.upgrade.test_upgrade import fails

pytestmark = pytest.mark.heavy


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    made = Held(tmp_path)
    made.up()
    yield made
    made.close()


@pytest.mark.timeout(3600)
def test_fifty_upgrades_and_switches_under_sixteen_streams_lose_nothing(held: Held) -> None:
    held.write_profile("night")
    python, newer = sys.executable, str(held.pythons("newer"))
    turns = [
        ("upgrade", "--python", newer),
        ("switch", "--to", "night", "--graceful"),
        ("upgrade", "--python", python),
        ("switch", "--to", "base", "--graceful"),
    ]
    before: list[int] = []
    with Load(held.port, streams=16).running() as load:
        for number, words in zip(range(50), itertools.cycle(turns), strict=False):
            before.append(load.done.total())
            outcome = held.upgraded(*words)
            assert outcome["result"] == "done", outcome
            assert load.errors == [], f"at {number}: {words}"
            held.until_alone()
    assert load.errors == []
    assert all(later > earlier for earlier, later in itertools.pairwise(before)), "served all along"
    print(f"50 times: {dict(load.done)}, no error")


def test_where_both_do_not_fit_the_first_is_drained_and_requests_wait(tmp_path: Path) -> None:
    small = Held(tmp_path)
    small.up(small.spec(memory={"budget": "430MiB", "warning": "90%", "critical": "95%"}))
    try:
        with Load(small.port, streams=2).running() as load:
            outcome = small.upgraded("upgrade", "--python", str(small.pythons("newer")))
        assert (outcome["result"], outcome["drained_first"], load.errors) == ("done", True, [])
        assert small.service()["version"] == "9.9.9"
        with Load(small.port, streams=2).running() as load:
            done = small.verb("upgrade", "--python", str(small.pythons("dying")))
        assert (done.returncode, load.errors) == (1, [])
        assert "was started again" in done.stderr
        small.until(lambda s: s["service"]["last_upgrade"]["result"] == "rolled_back")
        assert small.service()["version"] == "9.9.9"
    finally:
        small.close()


def test_one_that_cannot_be_imported_is_told_with_the_reason(held: Held) -> None:
    fails(held, "broken", "60s", "ModuleNotFoundError: import of sanic halted")


def test_what_was_chosen_serves_again_after_the_power_was_gone(held: Held) -> None:
    held.write_profile("night")
    held.upgraded("upgrade", "--python", str(held.pythons("newer")))
    held.upgraded("switch", "--to", "night")
    assert held.process is not None
    below = psutil.Process(held.process.pid).children(recursive=True)
    held.kill()
    assert gone(below)  # without a holder they drain and end by themselves
    held.up()
    found = held.service()
    assert (found["version"], found["profile"]) == ("9.9.9", "night")
    assert found["last_upgrade"]["kind"] == "switch"


def test_sigterm_ends_an_upgrade_that_is_under_way_too(held: Held) -> None:
    assert held.process is not None
    done: list[subprocess.CompletedProcess[str]] = []
    silent = str(held.pythons("silent"))
    asking = threading.Thread(target=lambda: done.append(held.verb("upgrade", "--python", silent)))
    asking.start()
    held.until_engines(2)
    below = psutil.Process(held.process.pid).children(recursive=True)
    held.process.send_signal(signal.SIGTERM)
    assert held.process.wait(LIMIT_S) == 0
    asking.join(LIMIT_S)
    assert "told to stop" in done[0].stderr
    assert gone(below)
