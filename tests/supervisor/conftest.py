"""Real engines over the demo model, and a check after each test that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from appliance import wire
from appliance.supervisor.deadlines import Deadlines
from appliance.supervisor.order import Probe
from appliance.supervisor.pool import Engines
from appliance.supervisor.record import Ended, Refused
from appliance.supervisor.router import Router
from reconciler.observed import EngineObs, EngineState, Limits, Route, RoutingTable

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples/models/lmx-demo"
STANDIN = Path(__file__).parent / "standin.py"
PATIENCE = 60.0  # seconds any single thing may take on a busy machine


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests: on a loop of their own (a `loop_factory` parameter says which kind), or
    with `shared` on the loop of the shared engine."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    given = pyfuncitem.funcargs
    test = pyfuncitem.obj(**{name: given[name] for name in inspect.signature(pyfuncitem.obj).parameters})
    if "shared" in given:
        given["runner"].run(_clean(test))
    else:
        with asyncio.Runner(loop_factory=given.get("loop_factory")) as runner:
            runner.run(_clean(test))
    return True


async def _clean(test: Any) -> None:
    """Await the test; fail when it leaves a descriptor, a task or a process behind."""
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    first = await asyncio.create_subprocess_exec("true", stdin=nothing, stdout=pipe)
    await first.communicate()  # from here on, uvloop keeps /dev/null open
    before, tasks, children = _descriptors(), asyncio.all_tasks(), psutil.Process().children(recursive=True)
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    await test
    gc.collect()
    await until(lambda: _descriptors() <= before, "descriptors are closed")
    assert asyncio.all_tasks() == tasks
    assert psutil.Process().children(recursive=True) == children
    assert unhandled == []


def _descriptors() -> int:
    return psutil.Process().num_fds()


async def until(condition: Callable[[], object], what: str = "", timeout: float = PATIENCE) -> None:
    """Wait until something holds; looks every few milliseconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited {timeout} s in vain: {what or inspect.getsource(condition)}"
        await asyncio.sleep(0.005)


class World:
    """Engines and a router, with the few verbs that tests need."""

    def __init__(self, engines: Engines, shared: str | None = None) -> None:
        self.changes: list[EngineState] = []
        self.engines = engines
        self.engines.on_change = self._changed
        self.router = Router(engines)
        self.outcomes: Counter[tuple[str, str]] = Counter()  # (model, outcome) of every record of a request
        self.router.books.on_end.append(self._count)
        self.router.books.on_refused.append(self._count)
        self.shared = shared

    def _count(self, record: Ended | Refused) -> None:
        self.outcomes[record.model, record.outcome] += 1

    def _changed(self) -> None:
        states = [engine.state for engine in self.engines.observe()]
        if states and (not self.changes or self.changes[-1] != states[0]):
            self.changes.append(states[0])

    def spawn(self, model: str = "demo", path: Path = DEMO, **options: Any) -> str:
        limits = options.pop("limits", Limits(context=4096, concurrency=16))
        probe = options.pop("probe", Probe())
        digest = options.pop("digest", "digest")
        return self.engines.spawn(
            model,
            digest,
            wire.Load(model, str(path)),
            limits,
            probe,
            options.pop("load_timeout", PATIENCE),
            warmup=options.pop("warmup", ()),
        )

    def see(self, engine: str) -> EngineObs:
        return next(seen for seen in self.engines.observe() if seen.id == engine)

    async def reach(self, engine: str, state: EngineState = EngineState.READY) -> EngineObs:
        ends = (state, EngineState.EXITED)
        await until(lambda: self.see(engine).state in ends, f"{engine} is {state}")
        seen = self.see(engine)
        assert seen.state is state, seen.failure
        return seen

    async def ready(self, model: str = "demo", **options: Any) -> str:
        if self.shared is not None:
            return self.shared
        engine = self.spawn(model, **options)
        await self.reach(engine)
        return engine

    def route(
        self,
        *routes: Route,
        active: str | None = "demo",
        depth: int = 64,
        timeout: float = PATIENCE,
        **more: Any,
    ) -> None:
        names = {route.model: route.model for route in routes}
        table = {route.model: route for route in routes}
        self.router.apply(RoutingTable(active, names, table, depth, timeout, **more))

    async def serving(self, concurrency: int = 16, **options: Any) -> str:
        """One ready engine that takes the traffic."""
        engine = await self.ready(**options)
        self.route(Route("demo", "ready", engine, concurrency))
        return engine


def prompt(tokens: int = 8, text: str = "hello") -> wire.Submit:
    """A request for exactly that many tokens."""
    return wire.Submit(
        0, prompt=text, sampling=wire.Sampling(max_tokens=tokens, temperature=0.0), ignore_eos=True
    )


def standin(mode: str) -> tuple[str, ...]:
    """A command for `Engines`: a child that misbehaves."""
    return (sys.executable, "-P", str(STANDIN), mode)


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., Any]:
    """`async with world(...) as w`: closed at the end."""

    @asynccontextmanager
    async def make(**options: Any) -> AsyncIterator[World]:
        made = World(Engines(tmp_path, **options))
        try:
            yield made
        finally:
            made.router.close()
            await made.engines.close()
            assert list((tmp_path / "engines").glob("*")) == []

    return make


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def house(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engines, str]]:
    """One ready engine for all tests that do it no harm: it takes a second or two to start."""

    async def start() -> tuple[Engines, str]:
        engines = Engines(tmp_path_factory.mktemp("shared"))
        return engines, await World(engines).ready()

    engines, engine = runner.run(start())
    yield engines, engine
    runner.run(engines.close())


@pytest.fixture
def shared(house: tuple[Engines, str]) -> Callable[..., Any]:
    """`async with shared() as w`: like `world`, with a router of its own over the shared engine."""

    @asynccontextmanager
    async def make() -> AsyncIterator[World]:
        made = World(*house)
        try:
            yield made
        finally:
            made.router.close()
            assert made.see(house[1]).state is EngineState.READY
            assert made.see(house[1]).leases == 0

    return make


@pytest.fixture
def quick() -> Deadlines:
    """Short enough to wait for. Only for stand-ins: loading takes a real engine longer on a busy machine."""
    return Deadlines(silence=2.0, silence_start=2.0, load=1.0, answer=1.0, look=0.1)


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LMX_KEYS", "never pass this on")
    monkeypatch.setenv("HF_TOKEN", "nor this")
    yield
    assert os.environ["HF_TOKEN"]
