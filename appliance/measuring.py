"""The sampler: engines and machine measured four times a second.

It runs on the event loop. A thread would have to win the interpreter back after each of the thirty system
calls, which takes a loop under load longer than the third of a millisecond that they cost; what is slow is
in threads of its own, behind `host`. The loop looks each five seconds by itself; it is woken for a figure
only where `notable` says so. docs/measuring.md has the figures.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
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
        self._sample: MemoryObs | None = None
        self._taken_at = 0.0
        self._looked: MemoryObs | None = None  # what the loop saw last
        self._working_set = 0  # the largest that an engine has reported
        self._failed = ""
        self.beside = 0  # bytes of another LMX on this machine, while one takes over from the other
        self.samples = 0

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            due = self._loop.time() + EVERY_S
            if self._try() and self._notable():
                self._poke()
            await asyncio.sleep(max(0.0, due - self._loop.time()))

    def newest(self) -> MemoryObs:
        """What the loop plans on, with `at`, `own_bytes` and `used_bytes`. Measured here only where the
        sampler is late, or has not begun. Raises what the host raised, where there is nothing yet."""
        if self._sample is None:
            self._sample = self._measure()
        elif self._loop.time() - self._taken_at > 2 * EVERY_S:
            self._try()
        self._looked = self._sample
        return self._sample

    def own_use(self) -> int:
        """Bytes that this LMX uses, engines and all."""
        return 0 if self._sample is None else max(0, self._sample.used_bytes - self.beside)

    def _notable(self) -> bool:
        return self._sample is not None and notable(self._sample, self._looked, *self._state())

    def _try(self) -> bool:
        """Where they cannot be had, the figures of before stay, and `at` says how old they are."""
        try:
            self._sample = self._measure()
        except Exception as error:  # measuring must not end the appliance
            if self._failed != repr(error):
                log.exception("measuring failed; the figures of before stand")
            self._failed = repr(error)
            self._taken_at = self._loop.time()
            return False
        self._failed = ""
        return True

    def _measure(self) -> MemoryObs:
        at = self._taken_at = self._loop.time()  # before: a sample must not claim to be younger than it is
        seen = [e for e in self._engines.observe() if e.state is not EngineState.EXITED]
        reported = (e.info.working_set_bytes for e in seen if e.info is not None)
        self._working_set = max(self._working_set, *reported, 0)
        sizes = {e.id: self._host.footprint(e.pid) for e in seen if e.pid is not None}
        self._engines.note_memory(sizes)
        own = self._host.footprint(os.getpid()) + self.beside
        memory = self._host.read(self._working_set)
        used = own + sum(e.memory_bytes for e in self._engines.observe() if e.state is not EngineState.EXITED)
        self.samples += 1
        return replace(memory, used_bytes=used, own_bytes=own, at=at)


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
