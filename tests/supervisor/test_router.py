"""Names, rows, the queue, and what happens to requests when engines and orders change."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor.counters import Counters
from appliance.supervisor.generation import Generation
from reconciler.observed import EngineState, Route, RoutingTable
from tests.supervisor.conftest import prompt, standin, until

Make = Callable[..., Any]


async def refused(opening: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        await opening
    return raised.value


async def queue(w: Any, *texts: str, model: str | None = None) -> list[asyncio.Task[Generation]]:
    """Requests that wait, in this order."""
    tasks = []
    for text in texts:
        queued = w.router.queued
        tasks.append(asyncio.create_task(w.router.open(model, prompt(4, text))))
        await until(lambda q=queued: w.router.queued == q + 1)
    return tasks


async def drop(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_names_lead_to_routes(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        route = Route("demo", "ready", engine, 4)
        names = {"demo": "demo", "alias": "demo", "org/demo": "demo"}
        w.router.apply(RoutingTable("demo", names, {"demo": route}))
        for name in (None, "", "default", "demo", "alias", "org/demo"):
            async with await w.router.open(name, prompt(2)) as stream:
                assert (stream.model, stream.engine_id) == ("demo", engine)
                assert stream.prompt_tokens > 0
                assert (await stream.collect()).tokens == 2
        error = await refused(w.router.open("gpt-9", prompt()))
        assert (error.code, error.param) == ("model_not_found", "model")
        assert "demo" in error.message


async def test_names_that_clients_make_up_leave_no_trace(shared: Make) -> None:
    async with shared() as w:
        await w.serving()
        for number in range(50):
            error = await refused(w.router.open(f"{number}" * 100_000, prompt()))
            assert len(error.message) < 300
        assert w.outcomes == {("", "model_not_found"): 50}


async def test_without_an_active_model_unnamed_requests_hear_why(shared: Make) -> None:
    async with shared() as w:
        w.router.apply(RoutingTable(None, reason="active is null"))
        error = await refused(w.router.open("default", prompt()))
        assert (error.code, error.message) == ("no-model-loaded", "active is null")


async def test_a_refusing_route_answers_at_once_with_its_own_words(shared: Make) -> None:
    async with shared() as w:
        w.route(Route("demo", "refuse", code="oom-unloaded", message="shed", retry_after=7.0))
        error = await refused(w.router.open("demo", prompt()))
        assert (error.code, error.message, error.retry_after) == ("oom-unloaded", "shed", 7.0)
        assert w.outcomes["demo", "oom-unloaded"] == 1


async def test_what_the_engine_refuses_keeps_its_code_and_details(shared: Make) -> None:
    async with shared() as w:
        engine = await w.serving()
        error = await refused(w.router.open(None, prompt(1, "word " * 5000)))
        assert error.code == "context_length_exceeded"
        assert error.details
        assert (w.see(engine).leases, w.router.in_flight) == (0, 0)


@pytest.mark.parametrize("value", [{"x": 2**70}, {"x": "\ud800"}, {"x": object()}])
async def test_a_value_that_cannot_be_sent_is_the_requests_own_fault(shared: Make, value: Any) -> None:
    async with shared() as w:
        engine = await w.serving()
        submit = wire.Submit(0, messages=[{"role": "user", "content": "hi"}], template_kwargs=value)
        assert (await refused(w.router.open(None, submit))).code == "invalid_request"
        huge = wire.Submit(0, prompt="x" * (wire.MAX_FRAME + 1))
        assert (await refused(w.router.open(None, huge))).code == "request_too_large"
        assert (w.see(engine).leases, w.router.in_flight) == (0, 0)


async def test_rows_are_given_first_come_first_served(shared: Make) -> None:
    async with shared() as w:
        engine = await w.serving(concurrency=1)
        running = await w.router.open(None, prompt(200))
        order: list[int] = []
        tasks = await queue(w, *"abcde")
        for number, task in enumerate(tasks):
            task.add_done_callback(lambda _, n=number: order.append(n))
        assert w.see(engine).leases == 1
        await running.collect()
        for task in tasks:
            stream = await task
            assert w.see(engine).leases <= 1
            await stream.collect()
        assert order == [0, 1, 2, 3, 4]
        assert (w.router.queued, w.router.in_flight, w.see(engine).leases) == (0, 0, 0)


async def test_a_full_queue_says_when_to_come_back(shared: Make) -> None:
    async with shared() as w:
        w.route(Route("demo", "wait"), Route("other", "wait"), depth=2)
        tasks = [*await queue(w, "a"), *await queue(w, "b", model="other")]
        error = await refused(w.router.open(None, prompt()))
        assert error.code == "overloaded"
        assert error.retry_after is not None
        assert error.retry_after >= 1
        await drop(*tasks)
        assert w.router.queued == 0


@pytest.mark.parametrize(
    ("route", "code"),
    [
        (Route("demo", "wait"), "model_swapping"),
        (Route("demo", "wake"), "model_swapping"),
        (Route("demo", "wait", code="engine_failed", message="it crashed", retry_after=1.0), "engine_failed"),
        (Route("demo", "ready", "gone-1"), "model_swapping"),
    ],
)
async def test_waiting_too_long_for_an_engine_has_its_own_error(
    shared: Make, route: Route, code: str
) -> None:
    async with shared() as w:
        w.route(route, timeout=0.05)
        error = await refused(w.router.open(None, prompt()))
        assert error.code == code
        assert error.retry_after
        assert (w.router.queued, w.router.wanted) == (0, {})


async def test_waiting_too_long_for_a_row_is_overload(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        w.route(Route("demo", "ready", engine, 1), timeout=0.1)
        async with await w.router.open(None, prompt(4000)):
            assert (await refused(w.router.open(None, prompt()))).code == "overloaded"
        assert w.see(engine).leases == 0


async def test_a_model_to_wake_is_wanted_for_as_long_as_somebody_waits(shared: Make) -> None:
    async with shared() as w:
        changes: list[dict[str, float]] = []
        w.router.on_change = lambda: changes.append(dict(w.router.wanted))
        w.route(Route("demo", "wake"))
        first, second = await queue(w, "a", "b")
        assert list(w.router.wanted) == ["demo"]
        w.route(Route("demo", "wait"))  # the load is under way
        assert list(w.router.wanted) == ["demo"]
        await drop(first)
        assert list(w.router.wanted) == ["demo"]
        engine = await w.ready()
        w.route(Route("demo", "ready", engine, 1))
        await (await second).collect()
        assert w.router.wanted == {}
        assert [list(change) for change in changes] == [["demo"], []]
        assert list(w.router.last_used) == [engine]


async def test_a_new_table_moves_unnamed_requests_and_keeps_named_ones(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready("new")
        w.route(Route("old", "wait"), Route("new", "wait"), active="old")
        (unnamed,) = await queue(w, "a")
        (named,) = await queue(w, "b", model="old")
        w.route(Route("old", "refuse", message="gone"), Route("new", "ready", engine, 4), active="new")
        assert (await (await unnamed).collect()).tokens == 4
        error = await refused(named)
        assert (error.code, error.message) == ("no-model-loaded", "gone")
        w.route(Route("old", "wait"), Route("new", "wait"), active="old")
        (last,) = await queue(w, "c", model="old")
        w.route(Route("new", "wait"), active="new")
        assert (await refused(last)).code == "model_not_found"


async def test_requests_that_move_keep_their_order(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready("new")
        w.route(Route("old", "wait"), Route("new", "wait"), active="old")
        tasks = []
        for model in (None, "new", None, "new", None):
            tasks += await queue(w, "x", model=model)
        order: list[int] = []
        for number, task in enumerate(tasks):
            task.add_done_callback(lambda _, n=number: order.append(n))
        w.route(Route("new", "ready", engine, 1), active="new")
        for task in tasks:
            await (await task).collect()
        assert order == [0, 1, 2, 3, 4]


async def test_the_same_table_again_changes_nothing(shared: Make) -> None:
    async with shared() as w:
        w.route(Route("demo", "wait"))
        before = w.router.table
        tasks = await queue(w, "a")
        w.route(Route("demo", "wait"))
        assert w.router.table is before
        await drop(*tasks)


async def test_what_was_not_accepted_when_its_engine_died_runs_elsewhere_first_in_line(world: Make) -> None:
    async with world(command=standin("dies-asked")) as w:
        doomed = await w.ready()
        w.route(Route("demo", "ready", doomed, 1))
        first = asyncio.create_task(w.router.open(None, prompt(4, "first")))
        await until(lambda: w.see(doomed).leases == 1 or w.router.queued)
        second = asyncio.create_task(w.router.open(None, prompt(4, "second")))
        await w.reach(doomed, EngineState.EXITED)
        await until(lambda: w.router.queued == 2)
        assert [ticket.submit.prompt for ticket in w.router._queues.line("demo")] == ["first", "second"]
    # the queue was answered when the appliance closed
    assert {(await refused(task)).code for task in (first, second)} == {"overloaded"}


async def test_draining_hands_unaccepted_requests_to_the_next_engine(world: Make) -> None:
    async with world(command=standin("late")) as w:
        old = await w.ready()
        new = await w.ready()
        w.route(Route("demo", "ready", old, 2))
        order: list[str] = []
        tasks = []
        for name in ("a", "b", "c"):
            tasks.append(asyncio.create_task(w.router.open(None, prompt(4, name))))
            tasks[-1].add_done_callback(lambda _, n=name: order.append(n))
            await until(lambda: w.see(old).leases + w.router.queued == len(tasks))
        assert (w.see(old).leases, w.router.queued) == (2, 1)
        w.engines.drain(old)
        assert (w.see(old).leases, w.router.queued) == (0, 3)
        os.kill(w.see(old).pid, signal.SIGUSR1)  # it accepts now what is no longer its own
        os.kill(w.see(new).pid, signal.SIGUSR1)
        w.route(Route("demo", "ready", new, 1))
        answers = [await (await task).collect() for task in tasks]
        assert {answer.text for answer in answers} == {"late"}
        assert {(await task).engine_id for task in tasks} == {new}
        assert order == ["a", "b", "c"]
        assert (w.router.in_flight, w.see(old).leases, w.see(new).leases) == (0, 0, 0)


async def test_what_a_draining_engine_hands_back_runs_on_an_idle_one_that_has_taken_over(world: Make) -> None:
    """With the new orders given first, as in a swap: nothing else runs there that would free a row."""
    async with world(command=standin("late")) as w:
        old = await w.ready()
        new = await w.ready()
        w.route(Route("demo", "ready", old, 2))
        tasks = [asyncio.create_task(w.router.open(None, prompt(4, name))) for name in ("a", "b")]
        await until(lambda: w.see(old).leases == 2)
        w.route(Route("demo", "ready", new, 2))
        os.kill(w.see(new).pid, signal.SIGUSR1)
        w.engines.drain(old)
        answers = [await (await task).collect() for task in tasks]
        assert {answer.text for answer in answers} == {"late"}
        assert {(await task).engine_id for task in tasks} == {new}


async def test_a_client_that_leaves_frees_what_it_held_at_every_stage(shared: Make) -> None:
    async with shared() as w:
        engine = await w.serving(concurrency=1)
        for turns in range(8):
            submitted = asyncio.create_task(w.router.open(None, prompt(4000)))
            for _ in range(turns):  # not yet begun, sent, accepted and about to return
                await asyncio.sleep(0.001)
            await drop(submitted)
            if not submitted.cancelled():
                submitted.result().cancel()  # it was faster, and the stream is its opener's
            assert (w.see(engine).leases, w.router.in_flight, w.router.queued) == (0, 0, 0)
        w.outcomes.clear()
        stream = await w.router.open(None, prompt(4000))
        (waiting,) = await queue(w, "b")
        await anext(stream)
        stream.cancel()  # in the middle: the next one gets the row
        stream.cancel()
        assert (w.see(engine).leases, w.router.queued) == (1, 0)
        answer = await waiting
        assert (await answer.collect()).tokens == 4
        answer.cancel()  # after the end
        assert (w.see(engine).leases, w.router.in_flight) == (0, 0)
        rest = [delta async for delta in stream]
        assert rest[-1].finish == "cancelled"
        outcomes = w.outcomes
        assert outcomes["demo", "ok"] == 1
        assert outcomes["demo", "cancelled"] == 1


async def test_a_client_that_leaves_before_it_is_accepted_or_in_the_queue_frees_its_place(
    world: Make,
) -> None:
    async with world(command=standin("late")) as w:
        engine = await w.serving(concurrency=1)
        submitted = asyncio.create_task(w.router.open(None, prompt()))
        await until(lambda: w.see(engine).leases == 1)
        first, second = await queue(w, "a", "b")
        await drop(first)
        assert (w.see(engine).leases, w.router.queued) == (1, 1)
        await drop(submitted)
        assert (w.see(engine).leases, w.router.queued) == (1, 0)  # the second has the row
        os.kill(w.see(engine).pid, signal.SIGUSR1)
        assert (await (await second).collect()).text == "late"
        assert (w.see(engine).leases, w.router.in_flight) == (0, 0)


async def test_a_client_that_leaves_as_its_engine_dies_is_not_queued_again(world: Make) -> None:
    async with world(command=standin("late")) as w:
        engine = await w.serving(concurrency=1)
        tasks = [asyncio.create_task(w.router.open(None, prompt()))]
        await until(lambda: w.see(engine).leases == 1)
        w.engines.get(engine).kill()
        tasks[0].cancel()
        w.engines.drain(engine)  # it hands back what it holds before the task has run
        await asyncio.wait(tasks)
        await w.reach(engine, EngineState.EXITED)
        assert (w.see(engine).leases, w.router.queued, w.router.in_flight) == (0, 0, 0)


async def test_cancelling_a_reader_in_mid_wait_leaves_the_row_to_its_owner(shared: Make) -> None:
    async with shared() as w:
        engine = await w.serving()
        async with await w.router.open(None, prompt(4000)) as stream:
            for _ in range(20):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await stream.collect()
            assert w.see(engine).leases == 1
        assert w.see(engine).leases == 0
        async with await w.router.open(None, prompt(10)) as stream:
            assert (await stream.collect()).tokens == 10


async def test_many_clients_that_come_and_go_leave_every_count_at_zero(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        w.route(Route("demo", "ready", engine, 4), depth=1000)

        async def client(number: int) -> None:
            async with asyncio.timeout(0.002 * number), await w.router.open(None, prompt(20)) as stream:
                async for _ in stream:
                    pass

        done = await asyncio.gather(*map(client, range(120)), return_exceptions=True)
        assert {type(result) for result in done} <= {type(None), TimeoutError}
        assert (w.router.queued, w.router.in_flight, w.see(engine).leases) == (0, 0, 0)
        async with await w.router.open(None, prompt(10)) as stream:
            assert (await stream.collect()).tokens == 10


async def test_an_engine_that_reads_no_more_holds_back_what_is_sent_to_it(world: Make) -> None:
    async with world(command=standin("deaf")) as w:
        engine = await w.serving(concurrency=1000)
        tasks = [asyncio.create_task(w.router.open(None, prompt(1, "x" * 500_000))) for _ in range(20)]
        await until(lambda: w.router.queued)
        assert 1 <= w.see(engine).leases < 10
        assert w.see(engine).leases + w.router.queued == 20
        await drop(*tasks)
        assert (w.router.queued, w.see(engine).leases) == (0, 0)


async def test_counters_follow_the_traffic(shared: Make) -> None:
    async with shared() as w:
        engine = await w.serving()
        async with await w.router.open(None, prompt(4000)) as long:
            await anext(long)
            assert w.router.in_flight == 1
            assert w.router.tokens_out >= 1
        cut = w.router.tokens_out
        assert cut == long.tokens
        w.router.books.counters = Counters()
        w.outcomes.clear()
        streams = [await w.router.open(None, prompt(30)) for _ in range(3)]
        for stream in streams:
            await stream.collect()
        counters = w.router.books.counters
        assert w.router.tokens_out == 90
        assert counters.prompt_tokens == sum(stream.prompt_tokens for stream in streams)
        assert len(counters.ttft_ms) == 3
        assert all(0 < ttft < 60_000 for ttft in counters.ttft_ms)
        assert w.outcomes == {("demo", "ok"): 3}
        assert list(w.router.last_used) == [engine]
        assert counters.pace["demo"] > 0
        w.route(Route("renamed", "ready", engine, 16), active="renamed")
        assert counters.pace == {}


async def test_shutting_down_answers_everything_that_waits(shared: Make) -> None:
    async with shared() as w:
        w.route(Route("demo", "wait"))
        (task,) = await queue(w, "a")
        w.router.close()
        for late in (task, w.router.open(None, prompt()), w.router.open("nobody", prompt())):
            error = await refused(late)
            assert (error.code, error.message) == ("overloaded", "the appliance is shutting down")


async def test_swaps_under_load_lose_no_request(world: Make) -> None:
    async with world() as w:
        done = 0

        async def client() -> None:
            nonlocal done
            while not stop.is_set():
                async with await w.router.open(None, prompt(12)) as stream:
                    deltas = [delta async for delta in stream]
                assert (deltas[-1].tokens, deltas[-1].finish) == (12, "length")
                done += 1

        stop = asyncio.Event()
        old = await w.serving(concurrency=4)
        clients = [asyncio.create_task(client()) for _ in range(8)]
        for beside in (True, False):
            new = await w.ready() if beside else ""
            w.route(Route("demo", "ready", new, 4) if beside else Route("demo", "wait"))
            w.engines.drain(old)
            await until(lambda e=old: w.see(e).leases == 0)
            w.engines.stop(old, "superseded")
            await w.reach(old, EngineState.EXITED)
            w.engines.forget(old)
            old = new or await w.ready()
            w.route(Route("demo", "ready", old, 4))
            await until(lambda n=done: done > n + 8)
        stop.set()
        await asyncio.gather(*clients)
        assert set(w.outcomes) == {("demo", "ok")}
        assert len(w.engines.observe()) == 1
