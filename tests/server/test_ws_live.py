"""/v1/ws in front of a real engine with the demo model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance import wire
from appliance.access.desk import Access
from appliance.server.app import Listeners, build
from appliance.supervisor.order import Probe
from appliance.supervisor.pool import Engines
from appliance.supervisor.record import Ended
from appliance.supervisor.router import Router
from reconciler.observed import EngineState, Limits, Route, RoutingTable
from tests.server import raw
from tests.server.stand import Board
from tests.server.talk import HELLO, by_hand, frame, server_frame, talk
from tests.server.test_live import DEMO
from tests.server.waiting import eventually

pytestmark = pytest.mark.anyio

LONG = {"max_tokens": 900, "ignore_eos": True}


@dataclass
class House:
    engines: Engines
    router: Router
    board: Board
    port: int

    @property
    def leases(self) -> int:
        return self.engines.observe()[0].leases


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    engines = Engines(tmp_path_factory.mktemp("state"))
    router = Router(engines)
    limits = Limits(context=1024, context_declared=2048, concurrency=8)
    engine = engines.spawn("demo", "digest", wire.Load("demo", str(DEMO)), limits, Probe(within=60), 60)
    board = Board(router)
    listeners: Listeners = build(board).ctx.listeners
    try:
        await eventually(lambda: engines.observe()[0].state in (EngineState.READY, EngineState.EXITED))
        assert engines.observe()[0].state is EngineState.READY, engines.observe()[0].failure
        route = Route("demo", "ready", engine, 8)
        router.apply(RoutingTable("demo", {"demo": "demo"}, {"demo": route}, timeout=60))
        yield House(engines, router, board, await listeners.open("127.0.0.1", 0))
    finally:
        router.close()
        await listeners.close_all(grace=1)
        await engines.close()


async def whole(house: House, **body: object) -> str:
    async with raw.connect(house.port) as line:
        await line.send(raw.post("/v1/chat/completions", json.dumps({**HELLO, **body}).encode()))
        reply = await line.reply()
    assert reply.status == 200, reply.body
    return str(reply.json()["choices"][0]["message"]["content"])


async def test_forty_chats_at_once_say_what_single_requests_say(house: House) -> None:
    questions = [{"messages": [{"role": "user", "content": f"Say {n}"}]} for n in range(40)]
    async with talk(house.port) as line:
        for n, question in enumerate(questions):
            await line.chat(f"{n}", **question, temperature=0, max_tokens=12)
        texts = await line.all_done([f"{n}" for n in range(40)])
    for n in (0, 17, 39):
        assert texts[f"{n}"] == await whole(house, **questions[n], temperature=0, max_tokens=12)
    assert house.leases == 0


async def test_a_cancel_gives_the_row_back_while_others_go_on(house: House) -> None:
    async with talk(house.port) as line:
        for n in range(8):
            await line.chat(f"{n}", **LONG)
        await eventually(lambda: house.leases == 8)
        await line.chat("waits", max_tokens=2, ignore_eos=True)
        await eventually(lambda: house.router.queued == 1)
        await line.say({"type": "cancel", "id": "3"})
        await line.until("3", "cancelled")
        await line.until("waits", "done")
        assert house.leases == 7
    await eventually(lambda: house.leases == 0)


async def test_a_client_that_vanishes_frees_every_row(house: House) -> None:
    async with by_hand(house.port) as line:
        for n in range(12):
            await line.send(frame(json.dumps({"id": f"{n}", **HELLO, **LONG}).encode()))
        await eventually(lambda: house.leases == 8 and house.router.queued == 4)
        line.cut()
    await eventually(lambda: house.leases == 0)
    assert (house.router.in_flight, house.router.queued) == (0, 0)


async def test_a_reader_that_stands_still_loses_its_rows_and_nobody_elses(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves unread is bounded: in its line, then in each generation, which then ends."""
    monkeypatch.setattr("appliance.supervisor.generation.UNREAD", 200)
    over = list[str]()

    def ended(record: Ended) -> None:
        if record.caller.path == "/v1/ws":
            over.append(record.outcome)

    monkeypatch.setattr(house.router.books, "on_end", [ended])
    async with by_hand(house.port) as line:
        line.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for n in range(6):
            # log-probabilities: a hundred times the bytes a token, so that the line is full soon
            body = {"id": f"{n}", **HELLO, **LONG, "logprobs": True, "top_logprobs": 20}
            await line.send(frame(json.dumps(body).encode()))
        assert await whole(house, max_tokens=5, ignore_eos=True) is not None
        await eventually(lambda: len(over) == 6)
        assert house.leases == 0
        line.reader._transport.resume_reading()  # type: ignore[attr-defined]
        ends = {}
        while len(ends) < 6:
            _, data = await server_frame(line)
            message = json.loads(data)
            if message.get("type"):
                ends[message["id"]] = (message["type"], (message.get("error") or {}).get("code"))
    assert set(ends) == {f"{n}" for n in range(6)}
    assert ("error", "overloaded") in ends.values()


async def test_tokens_per_minute_hold_on_a_real_engine(house: House, tmp_path: Path) -> None:
    key = "sk-one-0123456789abcdef"
    house.board.access = Access(
        tmp_path, {"KEYS": f"ci: {{key: {key}, tokens_per_minute: 400, models: [demo]}}"}
    )
    house.board.set(api_keys={"env": "KEYS"})
    try:
        async with talk(house.port, additional_headers={"x-api-key": key}) as line:
            await line.chat("a", max_tokens=30, ignore_eos=True, stream_options={"include_usage": True})
            await line.until("a", "done")
            used = next(chunk["usage"] for chunk in line.read["a"] if chunk.get("usage"))["total_tokens"]
            bucket = house.board.access._allowances["ci"].tokens
            assert bucket is not None
            assert bucket.level == pytest.approx(400 - used, abs=10)  # some seconds fill it a little
            await line.chat("b", max_tokens=390)
            refused = await line.until("b", "error")
            assert (refused["status"], refused["error"]["code"]) == (429, "rate_limited")
            assert "max_tokens" in refused["error"]["message"]
            await line.chat("c", model="demo", max_tokens=5)
            await line.until("c", "done")
        house.board.access = Access(tmp_path, {"KEYS": f"ci: {{key: {key}, models: [other]}}"})
        async with talk(house.port, additional_headers={"x-api-key": key}) as line:
            for model in ("demo", "default", ""):
                await line.chat("d", model=model)
                refused = await line.until("d", "error")
                assert (refused["status"], refused["error"]["code"]) == (403, "forbidden")
    finally:
        house.board.set()
    await asyncio.sleep(0)
    assert house.leases == 0
