"""The sampler: engines and machine measured four times a second, beside the event loop.

Measuring runs in a thread of its own, so that no request waits for it, and one set of figures at a time
is handed over whole. The loop looks each five seconds by itself; it is woken for a figure only where
`notable` says so. docs/measuring.md has the figures.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from appliance.host import Host
from appliance.supervisor.pool import Engines
from reconciler import forecast, names
from reconciler.observed import EngineState, MemoryObs
from reconciler.pressure import Pressure
from reconciler.spec import Spec

log = logging.getLogger("lmx.measuring")

EVERY_S = 0.25
CHANGE = 0.05  # of the budget: less is no news


class Sampler:
    """Use on a running event loop. state: the spec that is acted on, and the pressure in force. poke:
    wakes the loop."""

    def __init__(
        self,
        host: Host,
        engines: Engines,
        state: Callable[[], tuple[Spec, Pressure]],
        poke: Callable[[], None],
    ) -> None:
        self._host, self._engines, self._state, self._poke = host, engines, state, poke
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="measuring")
        self._sample: MemoryObs | None = None
        self._looked: MemoryObs | None = None  # what the loop saw last
        self._working_set = 0  # the largest that an engine has reported
        self._failed = ""
        self.samples = 0
        self.cpu_s = 0.0  # spent in the thread

    async def run(self) -> None:
        """Runs until cancelled."""
        try:
            while True:
                due = self._loop.time() + EVERY_S
                await self._try()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
        finally:
            self._thread.shutdown(wait=False)

    async def newest(self) -> MemoryObs:
        """What the loop plans on, with `at`, `own_bytes` and `used_bytes`. Measures only where nothing is
        measured yet."""
        sample = self._sample or await self._measure()
        self._looked = sample
        return sample

    async def _try(self) -> None:
        """The figures stay what they were, and say when that was, if they cannot be had."""
        try:
            sample = await self._measure()
            spec, pressure = self._state()
            if notable(sample, self._looked, spec, pressure):
                self._poke()
            self._failed = ""
        except Exception as error:  # measuring must not end the appliance
            if self._failed != repr(error):
                log.exception("measuring failed; the figures of before stand")
            self._failed = repr(error)

    async def _measure(self) -> MemoryObs:
        seen = self._engines.observe()
        reported = (e.info.working_set_bytes for e in seen if e.info is not None)
        self._working_set = max(self._working_set, *reported, 0)
        pids = {e.id: e.pid for e in seen if e.pid is not None and e.state is not EngineState.EXITED}
        at = self._loop.time()  # before: a sample must not claim to be younger than it is
        memory, own, sizes = await self._loop.run_in_executor(
            self._thread, self._read, pids, self._working_set
        )
        self._engines.note_memory(sizes)
        used = own + sum(e.memory_bytes for e in self._engines.observe() if e.state is not EngineState.EXITED)
        self.samples += 1
        self._sample = replace(memory, used_bytes=used, own_bytes=own, at=at)
        return self._sample

    def _read(self, pids: Mapping[str, int], working_set: int) -> tuple[MemoryObs, int, dict[str, int]]:
        """In the thread. Engines first: theirs is the figure that has to be acted on soonest."""
        began = time.thread_time()
        sizes = {engine: self._host.footprint(pid) for engine, pid in pids.items()}
        own = self._host.footprint(os.getpid())
        memory = self._host.read(working_set)
        self.cpu_s += time.thread_time() - began
        return memory, own, sizes


def notable(now: MemoryObs, looked: MemoryObs | None, spec: Spec, pressure: Pressure) -> bool:
    """Whether the loop is to look at these figures at once. Pure.

    A runaway engine shows at critical only, which is above warning. While anything is in force the loop
    sees every sample: dwell and the way back are told in samples.
    """
    budget = forecast.budget(spec.memory.budget, now)
    if pressure.steps or pressure.level != "normal" or pressure.hot or now.system != "normal":
        return True
    if now.used_bytes >= spec.memory.warning.fraction * budget:
        return True
    if now.heat is not None and names.HEAT.index(now.heat) >= names.HEAT.index(spec.thermal.enter):
        return True
    if looked is None or now.heat != looked.heat:
        return True
    return abs(now.used_bytes - looked.used_bytes) > CHANGE * budget
