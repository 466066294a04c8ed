"""A model over its service level, with real engines: what is told, who is refused, what is replaced."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.http_stream import Answer, post
from tests.e2e.machine import LIMIT_S, Machine
from tests.engine import faulty

CHAT = "/v1/chat/completions"


class _Load:
    """Clients that ask one model without pause; who is refused comes back soon."""

    def __init__(self, machine: Machine, clients: int, tokens: int) -> None:
        self.answers: list[Answer] = []
        self._port, self._stop, self._more = machine.port, asyncio.Event(), asyncio.Condition()
        body = {"messages": [{"role": "user", "content": "Count."}], "stream": True, "max_tokens": tokens}
        self._body = {**body, "model": "demo", "ignore_eos": True}
        self._tasks = [asyncio.create_task(self._client()) for _ in range(clients)]

    async def _client(self) -> None:
        while not self._stop.is_set():
            answer = await post(self._port, CHAT, self._body)
            async with self._more:
                self.answers.append(answer)
                self._more.notify_all()
            if answer.status == 503:
                await asyncio.sleep(0.2)  # it heard Retry-After: 1, and is rude

    async def more(self, count: int) -> None:
        """Until this many further answers have come."""
        goal = len(self.answers) + count
        async with asyncio.timeout(LIMIT_S), self._more:
            await self._more.wait_for(lambda: len(self.answers) >= goal)

    async def end(self) -> list[Answer]:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        return self.answers


def _stages(status: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in status["events"] if event["type"] == "SloStage"]


def _replaced(status: dict[str, Any]) -> bool:
    return any(
        event["type"] == "Swapped" and event["data"]["before"] == "demo-1" for event in status["events"]
    )


async def _until_stage(machine: Machine, stage: int) -> dict[str, Any]:
    def there(status: dict[str, Any]) -> bool:
        return any(event["data"]["stage"] == stage for event in _stages(status))

    status = await asyncio.to_thread(machine.until, there, 3 * LIMIT_S)
    return next(event for event in _stages(status) if event["data"]["stage"] == stage)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_late_answers_cut_the_queue_and_then_have_the_device_to_themselves(machine: Machine) -> None:
    spec = machine.spec(slo={"ttft_p95": "1ms"})
    spec["models"]["demo"] |= {"concurrency": 2, "priority": 200}
    spec["models"]["mini"] |= {"residency": "loaded"}
    machine.up(spec)

    async def overload() -> None:
        load = _Load(machine, clients=12, tokens=4)
        first = await _until_stage(machine, 1)
        assert first["message"].startswith("demo: p95 time to first token ")
        assert "back-pressure, queue cut to 1" in first["message"]
        figures = first["data"]
        assert figures["figures"][0]["figure"] == "ttft_p95"
        assert figures["figures"][0]["value"] > figures["figures"][0]["limit"] == 0.001
        assert figures["service"]["requests"] >= 20
        assert (await asyncio.to_thread(machine.ask, "Hello", model="mini"))[0] == 200

        second = await _until_stage(machine, 2)
        assert second["at"] - first["at"] >= 30
        assert "models under priority 200 take no new requests" in second["message"]
        seen = await asyncio.to_thread(machine.status)
        degraded = next(c for c in seen["conditions"] if c["type"] == "Degraded")
        assert degraded["status"] == "True"
        assert "demo is at stage 2" in degraded["message"]
        refused = await post(
            machine.port, CHAT, {"messages": [{"role": "user", "content": "x"}], "model": "mini"}
        )
        assert (refused.status, refused.json["error"]["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert "while demo, whose priority is higher, is too slow" in refused.json["error"]["message"]

        answers = await load.end()
        turned_away = [answer for answer in answers if answer.status == 503]
        assert turned_away
        assert {answer.json["error"]["code"] for answer in turned_away} == {"overloaded"}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in turned_away)
        assert [answer.failure for answer in answers if answer.status != 503 and answer.failure] == []
        stages = [event["data"]["stage"] for event in _stages(await asyncio.to_thread(machine.status))]
        assert stages == [1, 2]  # overload alone is no reason to restart

    asyncio.run(overload())


@pytest.mark.heavy
@pytest.mark.timeout(400)
def test_an_engine_that_became_slow_is_replaced_and_no_request_fails(
    machine: Machine, tmp_path: Path
) -> None:
    control = tmp_path / "faults.json"
    engine = ["-P", "-m", "tests.engine.faulty", "--faults", str(control)]
    program = (
        "import sys; from pathlib import Path; from appliance.app import run\n"
        f"sys.exit(run(Path({str(machine.file)!r}), engine=(sys.executable, *{engine!r})))"
    )
    machine.command = [sys.executable, "-c", program]
    machine.up(machine.spec(slo={"ttft_p95": None, "tokens_per_s_p50": 12}))
    (process,) = machine.engines()

    async def incident() -> None:
        load = _Load(machine, clients=12, tokens=24)
        await load.more(150)  # what is usual for this engine
        assert _stages(await asyncio.to_thread(machine.status)) == []
        faulty.write(control, pid=process.pid, sleep=0.1)  # at most 10 tokens a second
        restart = await _until_stage(machine, 3)
        assert "where demo-1 usually does" in restart["message"]
        assert restart["data"]["recycle"] == "demo-1"
        await asyncio.to_thread(machine.until, _replaced, 3 * LIMIT_S)
        await load.more(30)
        answers = await load.end()
        assert [answer.failure for answer in answers if answer.failure] == []
        assert len({answer.engine for answer in answers}) == 2
        stages = [event["data"]["stage"] for event in _stages(await asyncio.to_thread(machine.status))]
        assert stages[:3] == [1, 2, 3]

    asyncio.run(incident())
