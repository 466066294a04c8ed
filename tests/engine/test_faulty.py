"""The engine with faults does what it is told: chaos tests that use it test something."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import wire
from tests.engine import faulty
from tests.engine.client import Engine

MIB = 2**20


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "faults.json"


@pytest.fixture
def serving(tmp_path: Path, folder: Path, control: Path) -> Iterator[Engine]:
    """A faulty engine that is healthy so far."""
    engine = Engine(tmp_path / "log", module="tests.engine.faulty", options=["--faults", str(control)])
    try:
        engine.load(folder)
        engine.send(wire.Configure(context=512))
        assert engine.ask("dog", max_tokens=5, ignore_eos=True).finish == "length"
        yield engine
    finally:
        engine.close()


def beat(engine: Engine, holds: Callable[[wire.Beat], bool]) -> wire.Beat:
    engine.beats.clear()
    engine.until(lambda: any(map(holds, engine.beats)))
    return engine.beats[-1]


@pytest.mark.parametrize(
    ("fault", "value", "status"), [("exit", 7, 7), ("signal", 6, -signal.SIGABRT), ("signal", 9, -9)]
)
def test_exit_and_signal_end_it_so(
    serving: Engine, control: Path, fault: str, value: int, status: int
) -> None:
    faulty.write(control, **{fault: value, "take": True})
    assert serving.drain() == status
    assert not control.exists()
    assert json.loads(control.with_name(f"{control.name}.taken").read_text())["take"]


def test_garbage_is_no_message(serving: Engine, control: Path) -> None:
    faulty.write(control, garbage=True, model="test")
    with pytest.raises(wire.WireError):
        serving.drain()


def test_half_a_frame_breaks_those_after_it(serving: Engine, control: Path) -> None:
    faulty.write(control, half=True)
    with pytest.raises((wire.WireError, TimeoutError)):
        serving.drain(within=5)


def test_faults_of_another_model_or_process_are_not_its_own(serving: Engine, control: Path) -> None:
    for other in ({"model": "another"}, {"pid": 1}):
        faulty.write(control, exit=7, **other)
        beat(serving, lambda beat: True)
        assert serving.ask("dog", max_tokens=5, ignore_eos=True).finish == "length"


def test_steps_become_slow_and_fast_again(serving: Engine, control: Path) -> None:
    faulty.write(control, sleep=30)
    slow = serving.submit("dog", max_tokens=400, ignore_eos=True)
    beat(serving, lambda beat: beat.stage in ("prefill", "decode") and beat.stage_s > 0.4)
    assert not slow.ended
    assert serving.beats


def test_it_hangs_in_prefill_while_it_beats(serving: Engine, control: Path) -> None:
    faulty.write(control, hang="prefill")
    beat(serving, lambda beat: True)
    hung = serving.submit([5] * 100, max_tokens=5)
    beat(serving, lambda beat: beat.stage == "prefill" and beat.stage_s > 1)
    assert not hung.rows


@pytest.mark.parametrize("kind", ["bytes", "mlx"])
def test_it_allocates_without_end(serving: Engine, control: Path, kind: str) -> None:
    def held() -> int:
        status = Path(f"/proc/{serving.process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    before = held()
    faulty.write(control, allocate=100, kind=kind)
    while held() < before + 100 * MIB:
        serving.expect(wire.Beat)
    if kind == "mlx":
        assert beat(serving, lambda beat: True).active_bytes > 100 * MIB
    assert serving.ask("dog", max_tokens=5, ignore_eos=True).finish == "length"


def test_it_stops_beating_and_still_answers(serving: Engine, control: Path) -> None:
    faulty.write(control, silent=True)
    serving.beats.clear()
    with pytest.raises(TimeoutError):
        serving.expect(wire.Hello, within=3)  # nothing at all comes, so nothing can be waited for
    assert len(serving.beats) <= 1
    assert serving.ask("dog", max_tokens=5, ignore_eos=True).finish == "length"


def test_a_misspelt_fault_is_an_error() -> None:
    wrong: Any = {"alocate": 5}
    with pytest.raises(ValueError, match="alocate"):
        faulty.check(wrong)
