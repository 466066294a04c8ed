"""What the router does under strain: known sessions first, shorter queues, drains, and rows kept together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from appliance.errors import ApiError
from appliance.supervisor.generation import Generation
from appliance.supervisor.record import NOBODY, Caller
from reconciler.observed import Limits, Route
from tests.supervisor.conftest import DEMO, PATIENCE, prompt, standin, until

Make = Callable[..., Any]
OLD, NEW = Caller("known"), Caller("never seen")


async def refused(opening: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        await opening
    return raised.value


async def waits(w: Any, tokens: int = 4, **options: Any) -> asyncio.Task[Generation]:
    """A request that is in the queue by now."""
    queued = w.router.queued
    task = asyncio.create_task(w.router.open(options.pop("model", None), prompt(tokens), **options))
    await until(lambda: w.router.queued == queued + 1 or task.done())
    assert not task.done(), task.result()
    return task


async def drop(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def introduce(w: Any, caller: Caller = OLD) -> None:
    await (await w.router.open(None, prompt(1), caller=caller)).collect()


# --- waiting for memory -------------------------------------------------------------------------------


async def test_what_an_engine_does_not_begin_in_time_is_taken_back_and_refused(world: Make) -> None:
    async with world(command=standin("one")) as w:
        engine = await w.ready()
        w.route(Route("demo", "ready", engine, 4), timeout=1.0)
        running = await w.router.open(None, prompt())
        await until(lambda: w.see(engine).waiting == 1)
        error = await refused(w.router.open(None, prompt()))
        assert (error.code, error.status) == ("overloaded", 503)
        assert error.message.startswith("waited 1.")
        assert error.message.endswith("for memory of model demo")
        assert error.retry_after
        assert (w.see(engine).leases, w.router.in_flight) == (1, 1)
        assert not running.ended  # what runs has no such deadline
        assert w.outcomes["demo", "overloaded"] == 1
        running.cancel()


async def test_the_deadline_counts_from_the_clients_question_wherever_it_waited(world: Make) -> None:
    async with world(command=standin("one")) as w:
        engine = await w.ready()
        w.route(Route("demo", "wait"), timeout=1.5)
        began = asyncio.get_running_loop().time()
        tasks = [await waits(w), await waits(w)]
        await asyncio.sleep(0.5)
        w.route(Route("demo", "ready", engine, 4), timeout=1.5)
        running = await tasks[0]
        error = await refused(tasks[1])
        assert error.code == "overloaded"
        assert asyncio.get_running_loop().time() - began >= 1.5
        assert 1.5 <= float(error.message.split()[1]) < PATIENCE
        running.cancel()


# --- throttle -----------------------------------------------------------------------------------------


async def test_while_throttled_known_sessions_go_on_and_new_ones_wait_until_nothing_runs(
    shared: Make,
) -> None:
    async with shared() as w:
        engine = await w.serving()
        await introduce(w)
        running = await w.router.open(None, prompt(4000), caller=OLD)
        w.route(Route("demo", "ready", engine, 4, throttled=True))
        new, nameless = await waits(w, 4000, caller=NEW), await waits(w, caller=NOBODY)
        beside = await w.router.open(None, prompt(2), caller=OLD)  # past those that wait
        assert (await beside.collect()).tokens == 2
        assert (w.see(engine).leases, w.router.queued) == (1, 2)
        running.cancel()
        first = await new  # alone, as nothing else runs
        assert (w.see(engine).leases, w.router.queued) == (1, 1)
        first.cancel()
        await (await nameless).collect()


async def test_a_request_runs_alone_where_throttled_even_if_nobody_knows_it(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        w.route(Route("demo", "ready", engine, 4, throttled=True))
        await introduce(w, NEW)
        await introduce(w, NOBODY)


async def test_a_session_whose_first_request_runs_is_known(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        w.route(Route("demo", "ready", engine, 4, throttled=True))
        first = await w.router.open(None, prompt(4000), caller=NEW)
        await (await w.router.open(None, prompt(1), caller=NEW)).collect()
        first.cancel()


async def test_the_end_of_the_throttle_starts_all_that_waited(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        w.route(Route("demo", "ready", engine, 4, throttled=True))
        running = await w.router.open(None, prompt(4000), caller=OLD)
        tasks = [await waits(w, caller=NEW), await waits(w, caller=NEW)]
        w.route(Route("demo", "ready", engine, 4))
        for task in tasks:
            await (await task).collect()
        running.cancel()


async def test_a_new_session_that_waited_in_vain_hears_why(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        w.route(Route("demo", "ready", engine, 4, throttled=True), timeout=0.2)
        running = await w.router.open(None, prompt(4000), caller=OLD)
        error = await refused(w.router.open(None, prompt(), caller=NEW))
        assert error.code == "overloaded"
        assert "new sessions wait" in error.message
        running.cancel()


# --- queues -------------------------------------------------------------------------------------------


async def test_a_models_own_depth_limits_its_queue_and_no_other(shared: Make) -> None:
    async with shared() as w:
        w.route(Route("demo", "wait", depth=1), Route("other", "wait"))
        tasks = [await waits(w), await waits(w, model="other"), await waits(w, model="other")]
        error = await refused(w.router.open(None, prompt()))
        assert error.code == "overloaded"
        assert "model demo" in error.message
        assert error.retry_after
        w.router.check()  # the other model still takes requests
        await drop(*tasks)


async def test_a_depth_of_none_turns_away_all_that_would_wait_and_nobody_else(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        w.route(Route("demo", "ready", engine, 1, depth=0))
        running = await w.router.open(None, prompt(4000))
        assert (await refused(w.router.open(None, prompt()))).code == "overloaded"
        running.cancel()
        await (await w.router.open(None, prompt(1))).collect()


async def test_a_full_queue_is_told_before_the_body_is_read(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        w.route(Route("demo", "wait"), depth=1)
        w.router.check()
        task = await waits(w)
        with pytest.raises(ApiError) as raised:
            w.router.check()
        assert raised.value.code == "overloaded"
        assert raised.value.retry_after
        w.route(Route("demo", "wait"), Route("free", "ready", engine, 1), depth=1)
        w.router.check()  # who asks for the other model is served
        await drop(task)


# --- drain --------------------------------------------------------------------------------------------


async def test_while_drained_new_sessions_are_turned_away_and_known_ones_served(shared: Make) -> None:
    async with shared() as w:
        engine = await w.serving()
        await introduce(w)
        now = time.time()
        route = Route("demo", "ready", engine, 4)
        w.route(route, drained="drained by lmx drain", sessions_until=now + PATIENCE)
        w.router.check(NEW)  # only the body may tell the session
        for caller in (NEW, NOBODY):
            error = await refused(w.router.open(None, prompt(), caller=caller))
            assert error.code == "overloaded"
            assert error.message.startswith("drained by lmx drain")
            assert error.retry_after
        await introduce(w)
        w.route(route, drained="drained by lmx drain", sessions_until=now)
        assert (await refused(w.router.open(None, prompt(), caller=OLD))).code == "overloaded"
        with pytest.raises(ApiError):
            w.router.check(OLD)
        w.route(route)
        await introduce(w, NEW)


async def test_what_waited_before_a_drain_is_still_served(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        w.route(Route("demo", "ready", engine, 1))
        running = await w.router.open(None, prompt(4000))
        task = await waits(w)
        w.route(Route("demo", "ready", engine, 1), drained="drained", sessions_until=0.0)
        assert w.router.queued == 1
        running.cancel()
        assert (await (await task).collect()).tokens == 4


# --- rows of one request ------------------------------------------------------------------------------


async def test_rows_of_one_request_stay_on_the_engine_of_the_first_while_it_drains(world: Make) -> None:
    async with world() as w:
        old = await w.ready("old", limits=Limits(context=4096, concurrency=1))
        new = await w.ready("new", path=DEMO.parent / "lmx-demo-mini", digest="another")
        w.route(Route("old", "ready", old, 1), Route("new", "ready", new, 4), active="old")
        first = await w.router.open(None, prompt(4000))
        waiting = await waits(w, 4000, beside=first)
        w.route(Route("old", "refuse"), Route("new", "ready", new, 4), active="new")
        w.engines.drain(old)
        late = await waits(w, beside=first)
        other = await w.router.open(None, prompt(1))
        assert other.engine_id == new
        await other.collect()
        first.cancel()
        second = await waiting
        assert (second.engine_id, second.model, w.see(old).leases) == (old, "old", 1)
        second.cancel()
        third = await late
        assert third.engine_id == old
        await third.collect()
        assert w.see(old).leases == 0


async def test_rows_whose_model_is_gone_are_refused_not_answered_by_another(world: Make) -> None:
    async with world() as w:
        old = await w.ready("old")
        new = await w.ready("new", path=DEMO.parent / "lmx-demo-mini", digest="another")
        w.route(Route("old", "ready", old, 1), active="old")
        first = await w.router.open(None, prompt(4000))
        waiting = await waits(w, beside=first)
        w.route(Route("new", "ready", new, 4), active="new")
        w.engines.drain(old)
        assert w.router.queued == 1
        w.engines.stop(old, "drained")
        for opening in (waiting, w.router.open(None, prompt(), beside=first)):
            error = await refused(opening)
            assert error.code == "model_swapping"
            assert error.retry_after
        assert w.router.queued == 0


async def test_rows_go_to_a_fresh_engine_of_the_same_form(world: Make) -> None:
    async with world() as w:
        old, new = await w.ready(), await w.ready()
        w.route(Route("demo", "ready", old, 1))
        first = await w.router.open(None, prompt(4000))
        waiting = await waits(w, beside=first)
        w.route(Route("demo", "ready", new, 1))
        w.engines.drain(old)
        assert (await waiting).engine_id == new
        await (await waiting).collect()
        first.cancel()


async def test_rows_of_a_request_that_runs_are_not_new_sessions(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        w.route(Route("demo", "ready", engine, 4, throttled=True), drained="drained", sessions_until=0.0)
        w.route(Route("demo", "ready", engine, 4, throttled=True))
        first = await w.router.open(None, prompt(4000))
        w.route(Route("demo", "ready", engine, 4, throttled=True), drained="drained", sessions_until=0.0)
        await (await w.router.open(None, prompt(1), beside=first)).collect()
        first.cancel()
