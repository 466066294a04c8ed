"""The whole way: official client, server, router, a real engine with the demo model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from appliance import wire
from appliance.server.app import Listeners, build
from appliance.supervisor.order import Probe
from appliance.supervisor.pool import Engines
from appliance.supervisor.router import Router
from reconciler.observed import EngineState, Limits, Route, RoutingTable
from tests.server import raw
from tests.server.stand import Board
from tests.server.waiting import eventually

pytestmark = pytest.mark.anyio
DEMO = Path(__file__).parents[2] / "examples/models/lmx-demo"
HELLO: Any = [{"role": "user", "content": "Hello"}]


@dataclass
class House:
    engines: Engines
    router: Router
    listeners: Listeners
    port: int
    client: openai.AsyncOpenAI

    @property
    def leases(self) -> int:
        return self.engines.observe()[0].leases


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    engines = Engines(tmp_path_factory.mktemp("state"))
    router = Router(engines)
    limits = Limits(context=1024, context_declared=2048, concurrency=4)
    engine = engines.spawn("demo", "digest", wire.Load("demo", str(DEMO)), limits, Probe(within=60), 60)
    listeners: Listeners = build(Board(router)).ctx.listeners
    try:
        await eventually(lambda: engines.observe()[0].state in (EngineState.READY, EngineState.EXITED))
        assert engines.observe()[0].state is EngineState.READY, engines.observe()[0].failure
        router.apply(
            RoutingTable("demo", {"demo": "demo"}, {"demo": Route("demo", "ready", engine, 4)}, timeout=30)
        )
        port = await listeners.open("127.0.0.1", 0)
        url = f"http://127.0.0.1:{port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
            yield House(engines, router, listeners, port, client)
    finally:
        router.close()
        await listeners.close_all(grace=1)
        await engines.close()


async def test_a_stream_says_the_same_as_the_whole_answer(house: House) -> None:
    whole = await house.client.chat.completions.create(model="demo", messages=HELLO, temperature=0)
    stream = await house.client.chat.completions.create(
        model="demo", messages=HELLO, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert whole.choices[0].finish_reason == "stop"


async def test_a_length_and_a_stop_are_told_apart(house: House) -> None:
    short = await house.client.completions.create(model="demo", prompt="Hello", max_tokens=3, temperature=0)
    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None
    assert short.usage.completion_tokens == 3
    answer = await house.client.chat.completions.create(model="demo", messages=HELLO, temperature=0)
    text = answer.choices[0].message.content or ""
    cut = await house.client.chat.completions.create(
        model="demo", messages=HELLO, temperature=0, stop=text[3:6]
    )
    assert cut.choices[0].message.content == text[: text.index(text[3:6])]
    assert cut.choices[0].finish_reason == "stop"


async def test_a_seed_gives_the_same_choices_again(house: House) -> None:
    async def ask() -> list[str]:
        answer = await house.client.completions.create(
            model="demo", prompt="The", n=3, seed=11, temperature=1.5, max_tokens=12
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.text for choice in answer.choices]

    first = await ask()
    assert await ask() == first
    assert len(set(first)) > 1


async def test_more_choices_than_rows_wait_their_turn(house: House) -> None:
    stream = await house.client.completions.create(
        model="demo", prompt=["a", "b", "c"], n=4, stream=True, max_tokens=5, extra_body={"ignore_eos": True}
    )
    finishes = {}
    async for chunk in stream:
        for choice in chunk.choices:
            finishes[choice.index] = choice.finish_reason
    assert finishes == dict.fromkeys(range(12), "length")


async def test_a_prompt_over_the_ceiling_names_the_numbers(house: House) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await house.client.completions.create(model="demo", prompt=[5] * 3000)
    assert caught.value.code == "context_length_exceeded"
    assert "1024" in str(caught.value)
    assert "3000" in str(caught.value)
    with pytest.raises(openai.NotFoundError):
        await house.client.completions.create(model="other", prompt="x")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_the_engines_row(house: House, stream: bool) -> None:
    body = {"prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": stream, "n": 2}
    async with raw.connect(house.port) as line:
        await line.send(raw.post("/v1/completions", json.dumps(body).encode()))
        await eventually(lambda: house.leases == 2)
    await eventually(lambda: house.leases == 0)
    assert house.router.in_flight == 0


async def test_sixteen_streams_share_the_rows_and_all_end(house: House) -> None:
    async def one(i: int) -> int:
        stream = await house.client.completions.create(
            model="demo",
            prompt=f"{i}",
            stream=True,
            max_tokens=20,
            extra_body={"ignore_eos": True},
            stream_options={"include_usage": True},
        )
        last = [chunk async for chunk in stream][-1]
        assert last.usage is not None
        return last.usage.completion_tokens

    assert await asyncio.gather(*(one(i) for i in range(16))) == [20] * 16
    assert house.leases == 0
