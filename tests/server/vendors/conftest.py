"""A real engine with the demo model behind a real server, one for all tests here that need a model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anthropic
import openai
import pytest

from appliance import wire
from appliance.server.app import Listeners, build
from appliance.supervisor.order import Probe
from appliance.supervisor.pool import Engines
from appliance.supervisor.router import Router
from reconciler.observed import EngineState, Limits, Route, RoutingTable
from tests.server.stand import Board
from tests.server.waiting import eventually

DEMO = Path(__file__).parents[3] / "examples/models/lmx-demo"


@dataclass
class House:
    """table: the routing table in force, where `demo` is ready and `away` is not loaded."""

    engines: Engines
    router: Router
    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic
    table: RoutingTable


@pytest.fixture(scope="package")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    engines = Engines(tmp_path_factory.mktemp("state"))
    router = Router(engines)
    limits = Limits(context=1024, concurrency=4)
    engine = engines.spawn("demo", "digest", wire.Load("demo", str(DEMO)), limits, Probe(within=60), 60)
    listeners: Listeners = build(Board(router)).ctx.listeners
    try:
        await eventually(lambda: engines.observe()[0].state in (EngineState.READY, EngineState.EXITED))
        assert engines.observe()[0].state is EngineState.READY, engines.observe()[0].failure
        routes = {
            "demo": Route("demo", "ready", engine, 4),
            "away": Route("away", "wake"),
            "gone": Route("gone", "refuse", message="gone is on disk", code="no-model-loaded", retry_after=2),
        }
        names = {name: name for name in routes} | {"claude-demo": "demo"}
        table = RoutingTable("demo", names, routes, timeout=30)
        router.apply(table)
        url = f"http://127.0.0.1:{await listeners.open('127.0.0.1', 0)}"
        async with (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as one,
            anthropic.AsyncAnthropic(base_url=url, api_key="any", max_retries=0) as other,
        ):
            yield House(engines, router, one, other, table)
    finally:
        router.close()
        await listeners.close_all(grace=1)
        await engines.close()
