"""Whatever dies, the rest goes on, says why, and comes back by itself."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.http_stream import Answer, post
from tests.e2e.machine import LIMIT_S, Machine, gone

LONG = {"messages": [{"role": "user", "content": "Count from one to one hundred."}], "stream": True}
# With one row, a second request waits in the queue while the first one runs.
ONE_ROW = 1


def _one_row(machine: Machine) -> Machine:
    spec = machine.spec()
    spec["models"]["demo"]["concurrency"] = ONE_ROW
    return machine.up(spec)


def _has_event(machine: Machine, kind: str, reason: str) -> bool:
    events = machine.status()["events"]
    return any(e["type"] == kind and e["data"].get("reason") == reason for e in events)


async def _stream_and_strike(machine: Machine, number: int, waiting: int) -> tuple[Answer, list[Answer]]:
    """Signal the engine while one stream runs and others wait for its row."""
    started = asyncio.Event()
    running = asyncio.create_task(post(machine.port, "/v1/chat/completions", LONG, started=started))
    await started.wait()
    (engine,) = machine.engines()
    engine.send_signal(signal.SIGSTOP)  # so that it does not finish before the others have come
    queued = [asyncio.create_task(post(machine.port, "/v1/chat/completions", LONG)) for _ in range(waiting)]
    await asyncio.to_thread(machine.until, lambda s: s["traffic"]["queued"] == waiting)
    if number != signal.SIGSTOP:
        engine.send_signal(number)
    return await running, await asyncio.gather(*queued)


def test_a_killed_engine_ends_its_stream_with_an_error_and_the_queue_is_served(machine: Machine) -> None:
    _one_row(machine)
    cut, queued = asyncio.run(_stream_and_strike(machine, signal.SIGKILL, waiting=3))
    assert cut.status == 200
    assert cut.events[-1]["error"]["code"] == "engine_failed"
    assert not cut.done
    assert [a.failure for a in queued] == [None] * 3
    machine.until(lambda s: s["summary"] == "Ready")
    assert _has_event(machine, "EngineFailed", "crash")


@pytest.mark.timeout(180)
def test_a_stopped_engine_is_a_hang_and_is_cured(machine: Machine) -> None:
    _one_row(machine)
    cut, queued = asyncio.run(_stream_and_strike(machine, signal.SIGSTOP, waiting=2))
    assert cut.events[-1]["error"]["code"] == "engine_failed"
    assert [a.failure for a in queued] == [None] * 2
    assert _has_event(machine, "EngineFailed", "hang")


def test_an_engine_that_dies_three_times_is_quarantined_and_an_edit_frees_it(machine: Machine) -> None:
    spec = machine.up().spec()
    for _ in range(3):
        pid = machine.until(lambda s: s["models"]["demo"]["state"] == "ready")["models"]["demo"]["pid"]
        psutil.Process(pid).kill()
        machine.until(lambda s, pid=pid: s["models"]["demo"]["pid"] != pid)  # type: ignore[misc]
    machine.until(lambda s: s["models"]["demo"]["state"] == "quarantined")
    status, body = machine.ask("Who are you?")
    assert status == 503
    assert body["error"]["code"] == "engine_failed"
    assert "quarantined" in body["error"]["message"]
    assert machine.call("GET", "/readyz")[0] == 503
    assert machine.call("GET", "/healthz")[0] == 200
    # It outlives a restart ...
    machine.stop()
    machine.up(wait=False)
    machine.until(lambda s: s["models"]["demo"]["state"] == "quarantined")
    # ... and ends when that model is edited.
    spec["models"]["demo"]["priority"] = 7
    machine.write(spec)
    machine.until_synced("demo")
    assert "LMX" in machine.answer("Who are you?")


def test_killing_lmx_leaves_no_engine_and_the_next_up_is_as_before(machine: Machine) -> None:
    spec = machine.up().spec()
    machine.write({**spec, "active": "mini"})
    before = machine.until_synced("mini")
    engines = machine.engines()
    assert engines
    machine.kill()
    assert gone(engines)
    machine.up()
    after = machine.status()
    for key in ("generation", "digest", "active", "last_applied"):
        assert after[key] == before[key]


def test_an_engine_that_hangs_while_lmx_is_killed_does_not_stay(machine: Machine) -> None:
    machine.up()
    (engine,) = machine.engines()
    engine.suspend()
    machine.kill()
    gone([engine], limit=10.0)  # on Linux at once, elsewhere when the next one comes up
    machine.up()
    assert gone([engine])


def test_one_lmx_per_state_folder(machine: Machine, tmp_path: Path) -> None:
    machine.up()
    assert machine.process is not None
    second = Machine(tmp_path)
    second.write(machine.file.read_text())
    second.log = tmp_path / "second.log"
    second.up(wait=False)
    assert second.process is not None
    assert second.process.wait(LIMIT_S) == 1
    assert f"process {machine.process.pid}" in second.tail()
    assert machine.answer("Who are you?")


def test_sigterm_lets_running_streams_finish(machine: Machine) -> None:
    machine.up()

    async def scene() -> Answer:
        started = asyncio.Event()
        running = asyncio.create_task(post(machine.port, "/v1/chat/completions", LONG, started=started))
        await started.wait()
        assert machine.process is not None
        machine.process.send_signal(signal.SIGTERM)
        return await running

    answer = asyncio.run(scene())
    assert answer.failure is None
    assert machine.process is not None
    assert machine.process.wait(LIMIT_S) == 0


def test_a_client_that_leaves_frees_its_row(machine: Machine) -> None:
    _one_row(machine)

    async def scene() -> Answer:
        started = asyncio.Event()
        gone = asyncio.create_task(post(machine.port, "/v1/chat/completions", LONG, started=started))
        await started.wait()
        gone.cancel()
        # The only row: this one is served only if the other gave it back.
        return await post(machine.port, "/v1/chat/completions", {**LONG, "max_tokens": 4})

    before = time.monotonic()
    answer = asyncio.run(scene())
    assert answer.failure is None
    assert time.monotonic() - before < LIMIT_S
    machine.until(lambda s: s["traffic"]["in_flight"] == 0)
