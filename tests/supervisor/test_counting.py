"""Counting tokens asks the engine of a model, without a row: in its turn, and with an end in any case."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from appliance import wire
from appliance.errors import ApiError
from appliance.server.counting import counted
from appliance.supervisor.record import NOBODY
from reconciler.observed import Route
from tests.supervisor.conftest import prompt, standin, until

Make = Callable[..., Any]
CHAT = wire.Submit(0, messages=[{"role": "user", "content": "hello"}])


async def count(w: Any, model: str = "demo", submit: wire.Submit = CHAT) -> int:
    return await counted(w.router, model, submit, NOBODY)


async def refused(asking: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        await asking
    return raised.value


async def test_it_is_what_a_request_counts(shared: Make) -> None:
    async with shared() as w:
        await w.serving()
        found = await count(w)
        async with await w.router.open("demo", CHAT) as generation:
            assert generation.prompt_tokens == found > 0
        plain = wire.Submit(0, prompt="hello there")
        async with await w.router.open("demo", plain) as generation:
            assert generation.prompt_tokens == await count(w, submit=plain)


async def test_it_needs_no_row(shared: Make) -> None:
    async with shared() as w:
        await w.serving(1)
        async with await w.router.open("demo", prompt(4000)) as running:
            assert await count(w) > 0
            assert not running.ended
            assert (w.router.queued, w.router.in_flight) == (0, 1)


async def test_it_wakes_a_model_and_waits_for_it(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        w.route(Route("demo", "wake"))
        asking = asyncio.create_task(count(w))
        await until(lambda: "demo" in w.router.wanted, "the model is wanted")
        assert (w.router.queued, asking.done()) == (1, False)
        w.route(Route("demo", "ready", engine, 4))
        assert await asking > 0
        assert (w.router.queued, dict(w.router.wanted)) == (0, {})


async def test_who_goes_away_while_it_waits_leaves_nothing(shared: Make) -> None:
    async with shared() as w:
        await w.ready()
        w.route(Route("demo", "wake"))
        asking = asyncio.create_task(count(w))
        await until(lambda: w.router.queued == 1, "it waits")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (w.router.queued, dict(w.router.wanted)) == (0, {})


async def test_it_is_refused_as_a_request_would_be(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        away = Route("away", "refuse", code="no-model-loaded", message="on disk", retry_after=2)
        w.route(Route("demo", "ready", engine, 4), away, Route("slow", "wait"), depth=0)
        assert (await refused(count(w, "nothing"))).code == "model_not_found"
        error = await refused(count(w, "away"))
        assert (error.code, error.retry_after) == ("no-model-loaded", 2)
        assert (await refused(count(w, "slow"))).code == "overloaded"
        w.route(Route("slow", "wait"), timeout=0.05)
        assert (await refused(count(w, "slow"))).code in ("model_swapping", "overloaded", "no-model-loaded")
        assert w.router.queued == 0


async def test_what_cannot_be_rendered_says_so(shared: Make) -> None:
    async with shared() as w:
        await w.serving()
        error = await refused(count(w, submit=wire.Submit(0, messages=[])))
        assert error.code == "invalid_request"
        odd = wire.Submit(0, messages=[{"role": "user", "content": 2**70}])
        assert (await refused(count(w, submit=odd))).code == "invalid_request"


async def test_an_engine_that_dies_is_no_answer(world: Make) -> None:
    async with world(command=standin("deaf")) as w:
        engine = await w.serving()
        asking = asyncio.create_task(count(w))
        await until(lambda: bool(w.engines.get(engine).asking._open), "it has asked")
        os.kill(w.see(engine).pid, signal.SIGKILL)
        error = await refused(asking)
        assert (error.code, error.retry_after) == ("engine_failed", 1)


async def test_who_goes_away_while_an_engine_counts_leaves_nothing(world: Make) -> None:
    async with world(command=standin("deaf")) as w:
        engine = w.engines.get(await w.serving())
        asking = asyncio.create_task(count(w))
        await until(lambda: bool(engine.asking._open), "it has asked")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: not engine.asking._open, "nobody waits")
