"""All engines of this process. What happens to one never touches another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from appliance import wire
from appliance.supervisor import footprint as memory
from appliance.supervisor import process
from appliance.supervisor.deadlines import Deadlines
from appliance.supervisor.engine import Engine
from appliance.supervisor.order import House, Order, Probe, Template
from reconciler.observed import EngineObs, EngineState, Failure, Limits


class Engines:
    """Spawns engines and knows them until they are forgotten. Use on a running event loop.

    state: folder for pid files. first: the number of the first engine; ids are "<model>-<number>" and a
    number is never used twice. on_change is called after every change of state, and when a draining
    engine has no request left; it must only note that, and return.
    """

    def __init__(
        self,
        state: Path,
        *,
        first: int = 1,
        deadlines: Deadlines | None = None,
        on_change: Callable[[], None] | None = None,
        command: Sequence[str] = process.ENGINE,
        footprint: Callable[[int], int] = memory.footprint,
    ) -> None:
        self.on_change = on_change
        self.on_free: Callable[[Engine], None] | None = None  # the router's: an engine may take more
        self._next = first
        self._engines: dict[str, Engine] = {}
        self._house = House(
            state=state,
            deadlines=deadlines or Deadlines(),
            command=command,
            footprint=footprint,
            on_change=self._changed,
            on_free=self._freed,
        )

    def spawn(
        self,
        model: str,
        digest: str,
        load: wire.Load,
        limits: Limits,
        probe: Probe,
        load_timeout: float,
        *,
        own_digest: str = "",
        warmup: tuple[Template, ...] = (),
    ) -> str:
        """Begin to start an engine; returns its id at once. load_timeout: seconds until Loaded, and again for
        `warmup`.

        Raises TypeError for a default in `limits.sampling` that is none.
        """
        engine = f"{model}-{self._next}"
        self._next += 1
        order = Order(engine, model, digest, load, limits, probe, load_timeout, own_digest, warmup)
        self._engines[engine] = Engine(order, self._house)
        self._changed()
        return engine

    def get(self, engine: str | None) -> Engine | None:
        return None if engine is None else self._engines.get(engine)

    def configure(self, engine: str, limits: Limits) -> None:
        """New limits, without a reload; before Loaded they are kept until then."""
        self._engines[engine].configure(limits)

    def drain(self, engine: str) -> None:
        """No new request; those accepted run to their end. Only a ready engine changes."""
        self._engines[engine].drain()

    def stop(self, engine: str, reason: str, grace: float = 5.0, code: str = "engine_failed") -> None:
        """Make it exit: Shutdown, after `grace` seconds SIGTERM, then SIGKILL. Returns at once.

        code: the error that the requests it has begun end with; `reason` is its message where it is not
        engine_failed.
        """
        self._engines[engine].stop(reason, grace, code)

    def kill(self, engine: str, failure: Failure) -> None:
        """SIGKILL at once; `failure` is what it ended of."""
        self._engines[engine].kill(failure)

    def forget(self, engine: str) -> None:
        """Drop an exited engine from the list. Raises ValueError for one that is not."""
        if self._engines[engine].state is not EngineState.EXITED:
            raise ValueError(f"engine {engine} has not exited")
        del self._engines[engine]

    def note_memory(self, footprints: Mapping[str, int]) -> None:
        """Bytes that were just measured, by engine; those gone meanwhile are left out."""
        for name, size in footprints.items():
            if name in self._engines:
                self._engines[name].note_memory(size)

    def observe(self) -> tuple[EngineObs, ...]:
        return tuple(engine.observe() for engine in self._engines.values())

    @property
    def loaded(self) -> list[Engine]:
        """Those that have their model, and answer questions."""
        return [engine for engine in self._engines.values() if engine.loaded]

    async def close(self, grace: float = 1.0) -> None:
        """Stop all; what is still there after `grace` seconds is killed. Comes back when all are reaped."""
        tasks = [engine.task for engine in self._engines.values()]
        for engine in self._engines.values():
            engine.stop("shutdown", grace)
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=grace)
        for engine in self._engines.values():
            engine.kill()
        await asyncio.gather(*tasks)

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def _freed(self, engine: Engine) -> None:
        if self.on_free is not None:
            self.on_free(engine)
