"""What is told of each request when it is over: once, with the figures."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from appliance.errors import ApiError
from appliance.supervisor.record import Caller, Ended, Refused
from reconciler.observed import Route
from tests.supervisor.conftest import prompt, standin, until

Make = Callable[..., Any]
ADA = Caller("ada", "req-1", "/v1/chat/completions")


def told(w: Any) -> tuple[list[Ended], list[Refused]]:
    ended: list[Ended] = []
    refused: list[Refused] = []
    w.router.books.on_end.append(ended.append)
    w.router.books.on_refused.append(refused.append)
    return ended, refused


async def test_a_finished_request_is_told_with_its_figures(shared: Make) -> None:
    async with shared() as w:
        engine = await w.serving()
        ended, refused = told(w)
        w.router.books.priority_of = {"demo": 7}.__getitem__
        stream = await w.router.open(None, prompt(20), caller=ADA)
        await stream.collect()
        again = await w.router.open(None, prompt(1), caller=ADA)
        await again.collect()
        first, second = ended
        assert (first.model, first.engine, first.priority) == ("demo", engine, 7)
        assert (first.tokens, first.prompt_tokens, first.outcome) == (20, stream.prompt_tokens, "ok")
        assert first.asked <= first.started <= first.first_token <= first.ended
        assert (first.rows, first.known, first.caller) == (1, False, ADA)
        assert second.known
        assert refused == []


async def test_rows_are_those_that_ran_beside_it(shared: Make) -> None:
    async with shared() as w:
        await w.serving()
        ended, _ = told(w)
        long = await w.router.open(None, prompt(4000))
        await anext(long)
        await (await w.router.open(None, prompt(20))).collect()
        assert ended[0].rows == 2
        long.cancel()
        assert ended[1].outcome == "cancelled"


async def test_what_no_engine_began_is_told_once_with_its_code(shared: Make) -> None:
    async with shared() as w:
        engine = await w.ready()
        ended, refused = told(w)
        w.route(Route("demo", "ready", engine, 4))
        for name, ask in (("nobody", prompt()), ("demo", prompt(1, "word " * 5000))):
            with pytest.raises(ApiError):
                await w.router.open(name, ask, caller=ADA)
        w.route(Route("demo", "wait"), timeout=0.05)
        with pytest.raises(ApiError):
            await w.router.open("demo", prompt())
        w.route(Route("demo", "wait"))
        leaves = asyncio.create_task(w.router.open("demo", prompt()))
        await until(lambda: w.router.queued)
        leaves.cancel()
        await asyncio.wait([leaves])
        w.router.close()
        with pytest.raises(ApiError):
            w.router.check(ADA)
        assert [(record.model, record.outcome) for record in refused] == [
            ("", "model_not_found"),
            ("demo", "context_length_exceeded"),
            ("demo", "model_swapping"),
            ("demo", "cancelled"),
            ("", "overloaded"),
        ]
        assert refused[2].ended - refused[2].asked >= 0.05
        assert ended == []
        assert sum(w.outcomes.values()) == 5


async def test_a_listener_that_fails_harms_no_request(world: Make, caplog: pytest.LogCaptureFixture) -> None:
    async with world(command=standin("late")) as w:
        engine = await w.serving()
        ended: list[Ended] = []

        def broken(record: Ended) -> None:
            raise RuntimeError(record.outcome)

        w.router.books.on_end += [broken, ended.append]
        os.kill(w.see(engine).pid, signal.SIGUSR1)
        for _ in range(2):
            assert (await (await w.router.open(None, prompt())).collect()).text == "late"
        assert len(ended) == 2
        assert "a record of a request was lost" in caplog.text
