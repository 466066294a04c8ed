"""The sampler, over real processes: what it hands the loop, and what it wakes the loop for."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance import host, wire
from appliance.measuring import Sampler, notable
from appliance.supervisor.order import Probe
from appliance.supervisor.pool import Engines
from reconciler.observed import Limits, MemoryObs
from reconciler.pressure import Pressure
from reconciler.spec import Spec

GROWING = Path(__file__).parent / "growing.py"
GIB, MIB = 2**30, 2**20
LIMIT_S = 60.0
CALM = Pressure()


def spec(budget: str) -> Spec:
    return Spec.model_validate({"version": 1, "active": None, "models": {}, "memory": {"budget": budget}})


# --- what wakes the loop ------------------------------------------------------------------------------

TEN = spec("10GiB")
QUIET = MemoryObs(64 * GIB, 40 * GIB, used_bytes=5 * GIB, heat="nominal", at=1.0)


@pytest.mark.parametrize(
    ("now", "pressure", "woken"),
    [
        (QUIET, CALM, False),
        (replace(QUIET, used_bytes=5 * GIB + 500 * MIB), CALM, False),
        (replace(QUIET, used_bytes=5 * GIB + 520 * MIB), CALM, True),  # a twentieth of the budget
        (replace(QUIET, used_bytes=5 * GIB - 520 * MIB), CALM, True),
        (replace(QUIET, used_bytes=int(8.81 * GIB)), CALM, True),
        (replace(QUIET, system="warning"), CALM, True),
        (replace(QUIET, heat="moderate"), CALM, True),
        (replace(QUIET, heat=None), CALM, True),
        (QUIET, Pressure(level="warning"), True),  # that it is over is news
        (QUIET, Pressure(steps=("drop_caches",)), True),
        (QUIET, Pressure(hot=True), True),
    ],
)
def test_the_loop_is_woken_for_what_is_out_of_the_ordinary(
    now: MemoryObs, pressure: Pressure, woken: bool
) -> None:
    assert notable(now, QUIET, TEN, pressure) == woken


def test_what_lasts_at_warning_or_heat_wakes_the_loop_each_time() -> None:
    full, hot = replace(QUIET, used_bytes=9 * GIB), replace(QUIET, heat="heavy")
    assert notable(full, full, TEN, CALM)
    assert notable(hot, hot, TEN, CALM)


def test_the_first_sample_wakes_the_loop() -> None:
    assert notable(QUIET, None, TEN, CALM)


# --- over real processes --------------------------------------------------------------------------------


class Watched:
    """An engine's process that takes memory when told, and a sampler over it."""

    def __init__(self, folder: Path, budget: str, machine: host.Host | None = None) -> None:
        self.folder = folder
        self.pokes = 0
        self.spec, self.pressure = spec(budget), CALM
        command = (sys.executable, "-I", str(GROWING), str(folder))
        self.engines = Engines(folder / "state", command=command)
        self.sampler = Sampler(machine or host.platform(), self.engines, self._state, self._poke)

    def _state(self) -> tuple[Spec, Pressure]:
        return self.spec, self.pressure

    def _poke(self) -> None:
        self.pokes += 1

    async def poked(self) -> None:
        """Once more than now."""
        before = self.pokes
        await until(lambda: self.pokes > before)

    def spawn(self) -> str:
        load = wire.Load("m", "/nowhere")
        return self.engines.spawn("m", "digest", load, Limits(context=4096), Probe(), LIMIT_S)

    def held(self) -> int:
        return sum(e.memory_bytes for e in self.engines.observe())

    async def ask(self, wish: str) -> None:
        (self.folder / wish).touch()
        await until(lambda: not (self.folder / wish).exists())


async def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def with_sampler(
    watched: Callable[[], Watched], test: Callable[[Watched], Coroutine[Any, Any, None]]
) -> None:
    async def run() -> None:
        made = watched()
        task = asyncio.create_task(made.sampler.run())
        try:
            await test(made)
        finally:
            task.cancel()
            await made.engines.close()

    asyncio.run(run())


def test_what_an_engine_allocates_is_in_the_next_sample(tmp_path: Path) -> None:
    async def test(it: Watched) -> None:
        it.spawn()
        await it.ask("take-1")
        taken = it.sampler.samples
        await until(lambda: it.sampler.samples > taken + 1)
        before, held = it.sampler.newest(), it.held()
        await it.ask("take-200")
        taken = it.sampler.samples
        await until(lambda: it.sampler.samples > taken + 1)  # the first one may have been under way
        now = it.sampler.newest()
        assert it.held() - held > 190 * MIB
        assert now.used_bytes - before.used_bytes > 190 * MIB
        assert now.used_bytes == now.own_bytes + it.held()
        assert now.at is not None
        assert before.at is not None
        assert before.at < now.at <= asyncio.get_running_loop().time()

    with_sampler(lambda: Watched(tmp_path, "64GiB"), test)


def test_an_engine_that_passes_warning_wakes_the_loop(tmp_path: Path) -> None:
    async def test(it: Watched) -> None:
        it.spawn()
        await it.ask("take-1")
        await until(lambda: it.sampler.samples > 1)
        it.sampler.newest()
        await it.ask("take-300")
        await it.poked()
        taken = it.sampler.samples
        await until(lambda: it.sampler.samples > taken + 1)
        for _ in range(3):  # and again, for as long as it lasts
            seen = it.sampler.newest()
            assert seen.used_bytes > 300 * MIB
            await it.poked()

    with_sampler(lambda: Watched(tmp_path, "340MiB"), test)


def test_the_memory_of_an_engine_that_is_gone_is_gone(tmp_path: Path) -> None:
    async def test(it: Watched) -> None:
        engine = it.spawn()
        await it.ask("take-100")
        taken = it.sampler.samples
        await until(lambda: it.sampler.samples > taken + 1)
        assert it.held() > 100 * MIB
        it.engines.stop(engine, "test", 0.0)
        await until(lambda: it.held() == 0)
        taken = it.sampler.samples
        await until(lambda: it.sampler.samples > taken + 1)
        assert it.held() == 0
        seen = it.sampler.newest()
        assert seen.used_bytes == seen.own_bytes

    with_sampler(lambda: Watched(tmp_path, "64GiB"), test)


class Unwell:
    """A host seam that can be told to fail."""

    def __init__(self) -> None:
        self.real, self.fails, self.asked = host.platform(), False, 0

    def read(self, working_set: int = 0) -> MemoryObs:
        self.asked += 1
        if self.fails:
            raise OSError("no figures today")
        return self.real.read(working_set)

    def footprint(self, pid: int) -> int:
        return self.real.footprint(pid)


def test_figures_that_cannot_be_had_stay_and_keep_their_age(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unwell = Unwell()

    async def test(it: Watched) -> None:
        await until(lambda: it.sampler.samples > 1)
        unwell.fails = True
        await until(lambda: "no figures today" in caplog.text)
        first = it.sampler.newest()
        taken, asked = it.sampler.samples, unwell.asked
        await until(lambda: unwell.asked > asked + 2)
        assert (it.sampler.samples, it.sampler.newest()) == (taken, first)
        assert caplog.text.count("measuring failed") == 1  # said once, not four times a second
        unwell.fails = False
        await until(lambda: it.sampler.samples > taken)
        again = it.sampler.newest()
        assert again.at is not None
        assert first.at is not None
        assert again.at > first.at

    with_sampler(lambda: Watched(tmp_path, "64GiB", unwell), test)


def test_pressure_from_outside_wakes_the_loop(tmp_path: Path) -> None:
    """The machine is real; a hog that leaves it nothing is what the host seam adds."""

    class Small(Unwell):
        hog = 0

        def read(self, working_set: int = 0) -> MemoryObs:
            seen = super().read(working_set)
            level, why = ("critical", "a hog") if self.hog else ("normal", "")
            return replace(seen, system=level, system_why=why)

    small = Small()

    async def test(it: Watched) -> None:
        await until(lambda: it.sampler.samples > 1)
        it.sampler.newest()
        small.hog = 1
        await it.poked()
        assert it.sampler.newest().system_why == "a hog"

    with_sampler(lambda: Watched(tmp_path, "64GiB", small), test)


def test_this_process_counts_as_ours(tmp_path: Path) -> None:
    async def test(it: Watched) -> None:
        seen = it.sampler.newest()
        assert seen.used_bytes == seen.own_bytes
        assert abs(seen.own_bytes - host.platform().footprint(os.getpid())) < 32 * MIB

    with_sampler(lambda: Watched(tmp_path, "64GiB"), test)
