"""The life of one engine: every way to begin and to end is told apart."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from appliance.errors import ApiError
from appliance.supervisor.deadlines import Deadlines
from appliance.supervisor.order import Probe
from reconciler.observed import EngineState, Failure, Limits, Route
from tests.supervisor.conftest import PATIENCE, prompt, standin, until

Make = Callable[..., Any]
S = EngineState


async def test_an_engine_starts_loads_answers_its_probe_and_is_ready(world: Make) -> None:
    async with world() as w:
        engine = w.spawn(limits=Limits(context=512, concurrency=3))
        assert engine == "demo-1"
        seen = await w.reach(engine)
        assert w.changes == [S.STARTING, S.LOADING, S.PROBING, S.READY]
        assert seen.pid is not None
        assert psutil.Process(seen.pid).is_running()
        assert seen.info is not None
        assert seen.info.weights_bytes > 1_000_000
        assert seen.info.batchable
        assert seen.progress[0] == seen.progress[1] > 0
        assert (seen.leases, seen.failure, seen.stop_reason, seen.released_bytes) == (0, None, None, None)
        await until(lambda: w.see(engine).memory_bytes > seen.info.weights_bytes)


async def test_an_engine_gets_no_secret_and_leads_a_session_of_its_own(world: Make) -> None:
    async with world() as w:
        process = psutil.Process(w.see(await w.ready()).pid)
        assert not {"LMX_KEYS", "HF_TOKEN"} & process.environ().keys()
        assert os.getsid(process.pid) == process.pid


async def test_a_stop_ends_it_with_status_0_and_measures_what_it_gave_back(world: Make) -> None:
    async with world() as w:
        engine = await w.ready()
        w.engines.stop(engine, "superseded")
        seen = await w.reach(engine, S.EXITED)
        assert (seen.failure, seen.stop_reason, seen.memory_bytes) == (None, "superseded", 0)
        assert seen.released_bytes > 10_000_000
        assert not psutil.pid_exists(seen.pid)
        assert w.changes[-2:] == [S.STOPPING, S.EXITED]
        w.engines.forget(engine)
        assert w.engines.observe() == ()
        assert w.spawn() == "demo-2"


async def test_an_engine_that_runs_is_not_forgotten(world: Make) -> None:
    async with world() as w:
        with pytest.raises(ValueError, match="has not exited"):
            w.engines.forget(w.spawn())


async def test_kill_9_in_mid_stream_is_a_crash_that_only_its_own_streams_feel(world: Make) -> None:
    async with world() as w:
        doomed, other = await w.serving(), await w.ready("other")
        w.route(Route("demo", "ready", doomed, 4), Route("other", "ready", other, 4))
        stream = await w.router.open(None, prompt(3000))
        beside = await w.router.open("other", prompt(50))
        first = await anext(stream)
        os.kill(w.see(doomed).pid, signal.SIGKILL)
        with pytest.raises(ApiError, match="SIGKILL") as raised:
            async for _ in stream:
                pass
        assert (raised.value.code, raised.value.status) == ("engine_failed", 503)
        assert raised.value.retry_after
        assert first.tokens >= 1
        seen = await w.reach(doomed, S.EXITED)
        assert seen.failure.reason == "crash"
        assert "SIGKILL" in seen.failure.message
        assert (await beside.collect()).tokens == 50
        assert w.see(other).state is S.READY
        assert w.router.in_flight == 0


async def test_kill_stop_is_noticed_as_a_hang_and_cured(world: Make) -> None:
    async with world(deadlines=Deadlines(look=0.1)) as w:
        engine = await w.serving()
        stream = await w.router.open(None, prompt(4000))
        await anext(stream)
        os.kill(w.see(engine).pid, signal.SIGSTOP)
        with pytest.raises(ApiError, match="no sign of life"):
            async for _ in stream:
                pass
        failure = (await w.reach(engine, S.EXITED)).failure
        assert failure.reason == "hang"
        assert "no sign of life for 5." in failure.message
        assert "in stage decode" in failure.message


async def test_a_parent_that_was_busy_does_not_blame_its_engine(world: Make) -> None:
    async with world(command=standin("deaf"), deadlines=Deadlines(silence=1.0, look=0.1)) as w:
        await w.ready()
        for _ in range(3):
            time.sleep(1.5)  # noqa: ASYNC251 - nothing is read meanwhile, as when the parent is stopped
            await asyncio.sleep(0.3)  # several looks
        assert w.changes[-1] is S.READY


async def test_a_folder_without_a_model_fails_to_load_for_good(world: Make, tmp_path: Path) -> None:
    async with world() as w:
        engine = w.spawn(path=tmp_path)
        await until(lambda: w.see(engine).state is S.EXITED)
        failure = w.see(engine).failure
        assert (failure.reason, failure.permanent) == ("load_failed", True)
        assert failure.code != "engine_failed"
        assert str(tmp_path) in failure.message


MISBEHAVIOUR = {
    "exits0": ("exit", "status 0 (which nobody asked for)"),
    "exits7": ("exit", "status 7 in stage start: first words | last words"),
    "aborts": ("oom", "SIGABRT in stage start: out of memory: [METAL]"),
    "floods-stderr": ("exit", "the end"),
    "silent": ("hang", "no sign of life"),
    "stranger": ("load_failed", "protocol 99"),
    "stuck": ("hang", "in stage load (limit 1 s)"),
    "garbage": ("crash", "no message"),
    "huge": ("crash", "over the limit"),
    "half": ("exit", "status 0"),
    "hangs-up": ("hang", "closed its connection"),
    "mute": ("probe_failed", "no token at all"),
    "leaves-a-child": ("exit", "status 4"),
}


@pytest.mark.parametrize("mode", MISBEHAVIOUR)
async def test_each_misbehaviour_ends_the_engine_and_gets_its_own_name(
    world: Make, quick: Deadlines, mode: str
) -> None:
    reason, words = MISBEHAVIOUR[mode]
    async with world(deadlines=quick, command=standin(mode)) as w:
        engine = w.spawn()
        await until(lambda: w.see(engine).state is S.EXITED)
        failure = w.see(engine).failure
        assert failure.reason == reason
        assert words in failure.message
        assert len(failure.message) < 700


async def test_a_command_that_is_not_there_is_a_failed_start(world: Make) -> None:
    async with world(command=("/nowhere/python",)) as w:
        engine = w.spawn()
        await until(lambda: w.see(engine).state is S.EXITED)
        assert w.see(engine).failure.reason == "exit"
        assert "could not be started" in w.see(engine).failure.message


async def test_a_load_that_takes_too_long_is_given_up(world: Make) -> None:
    async with world(command=standin("stuck"), deadlines=Deadlines(look=0.1)) as w:
        engine = w.spawn(load_timeout=0.5)
        await until(lambda: w.see(engine).state is S.EXITED)
        failure = w.see(engine).failure
        assert (failure.reason, failure.code) == ("load_failed", "load_timeout")
        assert "within 0.5 s" in failure.message


async def test_a_probe_that_takes_too_long_fails(world: Make) -> None:
    async with world(command=standin("thinks"), deadlines=Deadlines(look=0.1)) as w:
        engine = w.spawn(probe=Probe("ping", 4, within=0.5))
        await until(lambda: w.see(engine).state is S.EXITED)
        assert w.see(engine).failure.reason == "probe_failed"
        assert "within 0.5 s" in w.see(engine).failure.message


async def test_a_probe_over_the_ceiling_is_refused(world: Make) -> None:
    async with world() as w:
        engine = w.spawn(limits=Limits(context=4), probe=Probe("ping " * 50, 4))
        await until(lambda: w.see(engine).state is S.EXITED)
        assert w.see(engine).failure.reason == "probe_failed"
        assert "refused" in w.see(engine).failure.message


async def test_a_child_that_ignores_shutdown_and_sigterm_is_killed(
    world: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(command=standin("stubborn")) as w:
        engine = await w.ready()
        began = asyncio.get_running_loop().time()
        w.engines.stop(engine, "unload", grace=0.2)
        assert w.see(engine).state is not S.EXITED
        seen = await w.reach(engine, S.EXITED)
        assert asyncio.get_running_loop().time() - began < 5
        assert (seen.failure, seen.stop_reason) == (None, "unload")
        assert "did not exit within 0.2 s" in caplog.text


async def test_a_stop_in_the_middle_of_a_load_needs_no_patience(world: Make) -> None:
    async with world() as w:
        for state in (S.STARTING, S.LOADING):
            engine = w.spawn()
            await until(lambda e=engine, s=state: w.see(e).state in (s, S.READY))
            w.engines.stop(engine, "superseded", grace=0)
            seen = await w.reach(engine, S.EXITED)
            assert (seen.failure, seen.stop_reason) == (None, "superseded")


async def test_a_stop_with_a_code_of_its_own_tells_each_request_that_code_at_once(world: Make) -> None:
    async with world() as w:
        engine = await w.serving()
        stream = await w.router.open(None, prompt(4000))
        await anext(stream)
        whole = asyncio.create_task((await w.router.open(None, prompt(4000))).collect())
        await asyncio.sleep(0)
        w.engines.stop(engine, "demo was unloaded: memory is short", 5.0, "oom-unloaded")
        assert (w.see(engine).leases, w.router.in_flight) == (0, 0)  # nobody waits for the process to end
        with pytest.raises(ApiError) as streamed:
            async for _ in stream:
                pass
        with pytest.raises(ApiError) as collected:
            await whole
        for raised in (streamed, collected):
            assert (raised.value.code, raised.value.status) == ("oom-unloaded", 503)
            assert raised.value.message == "demo was unloaded: memory is short"
            assert raised.value.retry_after
        seen = await w.reach(engine, S.EXITED)
        assert (seen.failure, seen.stop_reason) == (None, "demo was unloaded: memory is short")


async def test_a_code_that_is_none_stops_nothing(world: Make) -> None:
    async with world(command=standin("stubborn")) as w:
        engine = await w.ready()
        with pytest.raises(ValueError, match="out-of-memory"):
            w.engines.stop(engine, "unload", 5.0, "out-of-memory")
        assert w.see(engine).state is S.READY


async def test_a_stop_without_grace_cuts_an_earlier_one_short(world: Make) -> None:
    async with world(command=standin("stubborn")) as w:
        engine = await w.ready()
        w.engines.stop(engine, "drained", grace=PATIENCE)
        await until(lambda: w.see(engine).state is S.STOPPING)
        w.engines.stop(engine, "memory is short", 0.0, "oom-unloaded")
        seen = await w.reach(engine, S.EXITED)
        assert (seen.failure, seen.stop_reason) == (None, "drained")


@pytest.mark.parametrize("before", ["ready", "draining", "stopping"])
async def test_a_kill_is_at_once_and_ends_it_with_the_failure_given(world: Make, before: str) -> None:
    async with world(command=standin("stubborn")) as w:
        engine = await w.serving()
        if before == "draining":
            w.engines.drain(engine)
        elif before == "stopping":
            w.engines.stop(engine, "drained", grace=PATIENCE)
            await until(lambda: w.see(engine).state is S.STOPPING)
        failure = Failure("oom", "it uses 900 MB and was let in for 300")
        w.engines.kill(engine, failure)
        seen = await w.reach(engine, S.EXITED)
        assert (seen.failure, seen.stop_reason) == (failure, None)
        w.engines.kill(engine, Failure("crash", "another"))  # it is gone already
        assert w.see(engine).failure == failure


async def test_a_killed_engines_streams_hear_why_and_what_it_had_not_begun_waits(world: Make) -> None:
    async with world(command=standin("one")) as w:
        engine = await w.serving()
        stream = await w.router.open(None, prompt())
        later = asyncio.create_task(w.router.open(None, prompt()))
        await until(lambda: w.see(engine).leases == 2)
        w.route(Route("demo", "wait"))
        w.engines.kill(engine, Failure("oom", "it ran away"))
        with pytest.raises(ApiError, match="it ran away") as raised:
            async for _ in stream:
                pass
        assert raised.value.code == "engine_failed"
        assert w.router.queued == 1
        later.cancel()
        await asyncio.wait([later])


async def test_a_kill_before_the_process_is_there_counts_too(world: Make) -> None:
    async with world() as w:
        engine = w.spawn()
        w.engines.kill(engine, Failure("oom", "no room"))
        assert (await w.reach(engine, S.EXITED)).failure == Failure("oom", "no room")


async def test_an_engine_tells_how_long_it_took_and_how_busy_it_is(world: Make) -> None:
    async with world() as w:
        began = asyncio.get_running_loop().time()
        engine = await w.serving()
        assert 0 < w.see(engine).start_s <= asyncio.get_running_loop().time() - began
        await until(lambda: w.see(engine).saturation is not None)
        assert 0 <= w.see(engine).saturation <= 1


async def test_a_draining_engine_finishes_its_streams_and_takes_no_more(world: Make) -> None:
    async with world() as w:
        engine = await w.serving()
        streams = [await w.router.open(None, prompt(200)) for _ in range(4)]
        assert w.see(engine).leases == 4
        told: list[int] = []
        w.engines.on_change = lambda: told.append(w.see(engine).leases)
        w.engines.drain(engine)
        assert w.see(engine).state is S.DRAINING
        late = asyncio.create_task(w.router.open(None, prompt(1)))
        answers = [await stream.collect() for stream in streams]
        assert [answer.tokens for answer in answers] == [200] * 4
        await until(lambda: w.see(engine).leases == 0)
        assert told[-1] == 0  # whoever waits for the drain hears of its end
        assert w.router.queued == 1
        late.cancel()
        await asyncio.wait([late])


async def test_limits_change_without_a_reload(world: Make) -> None:
    async with world() as w:
        engine = await w.serving(limits=Limits(context=64))
        with pytest.raises(ApiError) as raised:
            await w.router.open(None, prompt(100))
        assert raised.value.code == "context_length_exceeded"
        assert raised.value.details
        w.engines.configure(engine, Limits(context=256, sampling={"temperature": 0.0}))
        assert w.see(engine).limits.context == 256
        async with await w.router.open(None, prompt(100)) as stream:
            assert (await stream.collect()).tokens == 100


async def test_a_sampling_default_that_is_none_is_an_error_at_once(world: Make) -> None:
    async with world(command=standin("stubborn")) as w:
        with pytest.raises(TypeError, match="heat"):
            w.spawn(limits=Limits(context=64, sampling={"heat": 1}))
        engine = await w.ready()
        with pytest.raises(TypeError, match="heat"):
            w.engines.configure(engine, Limits(context=64, sampling={"heat": 1}))
        assert w.see(engine).limits.sampling == {}


async def test_nothing_is_signalled_by_number_after_the_exit(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(command=standin("exits3")) as w:
        engine = w.spawn()
        await until(lambda: w.see(engine).state is S.EXITED)
        monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("that number may be somebody else's by now"))
        w.engines.stop(engine, "unload")
        await w.engines.close()
        assert w.see(engine).stop_reason is None


async def test_configuring_before_the_load_is_over_counts_too(world: Make) -> None:
    async with world() as w:
        engine = w.spawn(limits=Limits(context=64))
        w.engines.configure(engine, Limits(context=256))
        await w.reach(engine)
        w.route(Route("demo", "ready", engine, 4))
        assert (await (await w.router.open(None, prompt(100))).collect()).tokens == 100


async def test_a_request_that_is_never_answered_is_a_hang(world: Make, quick: Deadlines) -> None:
    async with world(deadlines=quick, command=standin("deaf")) as w:
        engine = await w.serving()
        waiting = asyncio.create_task(w.router.open(None, prompt()))
        seen = await w.reach(engine, S.EXITED)
        assert seen.failure.reason == "hang"
        assert "unanswered" in seen.failure.message
        assert not waiting.done()  # it goes to whichever engine comes next
        assert w.router.queued == 1
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_closing_kills_what_will_not_go(world: Make) -> None:
    async with world(command=standin("stubborn")) as w:
        engines = [await w.ready() for _ in range(2)]
        await w.engines.close(grace=0.1)
        assert [w.see(engine).state for engine in engines] == [S.EXITED] * 2
        assert {w.see(engine).stop_reason for engine in engines} == {"shutdown"}
