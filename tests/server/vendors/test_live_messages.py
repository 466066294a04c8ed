"""Anthropic's own package drives /v1/messages, with a real model."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, MessageTokensCount

from reconciler.observed import Route
from tests.server.vendors.conftest import House
from tests.server.vendors.strict import strictly
from tests.server.waiting import eventually

pytestmark = pytest.mark.anyio
HELLO: Any = [{"role": "user", "content": "Hello"}]
COLD: Any = {"temperature": 0}
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


async def test_a_message_whole_and_streamed(house: House) -> None:
    client = house.anthropic
    whole = await client.messages.create(model="demo", max_tokens=60, messages=HELLO, extra_body=COLD)
    strictly(Message, whole.to_dict(mode="json"))
    assert whole.stop_reason == "end_turn"
    assert whole.content[0].type == "text"
    assert whole.content[0].text
    async with client.messages.stream(model="demo", max_tokens=60, messages=HELLO, extra_body=COLD) as stream:
        pieces = [piece async for piece in stream.text_stream]
        final = await stream.get_final_message()
    assert "".join(pieces) == whole.content[0].text
    used = whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    assert used == final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0)
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert stream.request_id


async def test_why_a_message_ended(house: House) -> None:
    client = house.anthropic
    short = await client.messages.create(model="demo", max_tokens=2, messages=HELLO, extra_body=COLD)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 2)
    whole = await client.messages.create(model="demo", max_tokens=60, messages=HELLO, extra_body=COLD)
    assert whole.content[0].type == "text"
    word = whole.content[0].text.split()[-1]
    cut = await client.messages.create(
        model="demo", max_tokens=60, messages=HELLO, extra_body=COLD, stop_sequences=["never said", word]
    )
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", word)


async def test_max_tokens_may_be_more_than_there_is_room_for(house: House) -> None:
    client = house.anthropic
    whole = await client.messages.create(model="demo", max_tokens=9000, messages=HELLO, extra_body=COLD)
    assert whole.stop_reason == "end_turn"
    long, room = HELLO, 1024
    while room > 3:  # until only so much is left of the context
        words = len(long[0]["content"].split()) + max(1, room // 3 - 2)
        long = [{"role": "user", "content": "word " * words}]
        room = 1024 - (await client.messages.count_tokens(model="demo", messages=long)).input_tokens
    assert room > 0
    body: Any = {"model": "demo", "messages": long, "extra_body": COLD}
    found = await client.messages.create(max_tokens=9000, **body)
    assert (found.stop_reason, found.usage.output_tokens) == ("model_context_window_exceeded", room)
    async with client.messages.stream(max_tokens=9000, **body) as stream:
        final = await stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("model_context_window_exceeded", room)
    exact = await client.messages.create(max_tokens=room, **body)
    assert exact.stop_reason == "max_tokens"


async def test_an_answer_goes_on_from_its_beginning(house: House) -> None:
    whole = await house.anthropic.messages.create(
        model="demo", max_tokens=60, messages=HELLO, extra_body=COLD
    )
    assert whole.content[0].type == "text"
    words = whole.content[0].text.split()
    begun = [*HELLO, {"role": "assistant", "content": " ".join(words[:2])}]
    rest = await house.anthropic.messages.create(model="demo", max_tokens=60, messages=begun, extra_body=COLD)
    assert rest.content[0].type == "text"
    assert rest.content[0].text.split() == words[2:]
    assert rest.usage.output_tokens < whole.usage.output_tokens


async def test_a_tool_is_called_and_its_result_sent_back(house: House) -> None:
    client = house.anthropic
    wish: Any = {"type": "tool", "name": "get_weather"}
    asked = await client.messages.create(
        model="demo", max_tokens=90, messages=QUESTION, tools=[WEATHER], tool_choice=wish, extra_body=COLD
    )
    strictly(Message, asked.to_dict(mode="json"))
    assert asked.stop_reason == "tool_use"
    [use] = [block for block in asked.content if block.type == "tool_use"]
    assert use.name == "get_weather"
    assert isinstance(use.input["city"], str)
    async with client.messages.stream(
        model="demo", max_tokens=90, messages=QUESTION, tools=[WEATHER], tool_choice=wish, extra_body=COLD
    ) as stream:
        events = [event.type async for event in stream]
        final = await stream.get_final_message()
    assert "input_json" in events
    [same] = [block for block in final.content if block.type == "tool_use"]
    assert (same.name, same.input) == (use.name, use.input)
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "It rains."}
    turns: Any = [*QUESTION, asked.to_param(), {"role": "user", "content": [result]}]
    answer = await client.messages.create(
        model="demo", max_tokens=60, messages=turns, tools=[WEATHER], extra_body=COLD
    )
    assert answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) > asked.usage.input_tokens
    none = await client.messages.create(
        model="demo",
        max_tokens=60,
        messages=QUESTION,
        tools=[WEATHER],
        tool_choice={"type": "none"},
        extra_body=COLD,
    )
    assert all(block.type != "tool_use" for block in none.content)


async def test_the_tool_runner_calls_and_goes_on(house: House) -> None:
    asked = []

    @anthropic.beta_async_tool
    async def get_weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: its name
        """
        asked.append(city)
        return f"It rains in {city}."

    runner = house.anthropic.beta.messages.tool_runner(
        model="demo",
        max_tokens=90,
        tools=[get_weather],
        tool_choice={"type": "any"},
        messages=QUESTION,
        max_iterations=2,
        extra_body=COLD,
    )
    said = [message async for message in runner]
    assert len(said) == 2
    assert [block.input for block in said[0].content if block.type == "tool_use"] == [{"city": asked[0]}]


async def test_an_answer_in_a_form(house: House) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    found = await house.anthropic.messages.create(
        model="demo", max_tokens=60, messages=HELLO, output_config=config, extra_body=COLD
    )
    assert found.content[0].type == "text"
    assert json.loads(found.content[0].text) in ({"colour": "red"}, {"colour": "blue"})


async def test_tokens_are_counted_as_a_message_counts_them(house: House) -> None:
    client = house.anthropic
    for body in (
        {"messages": HELLO},
        {"messages": QUESTION, "system": "Be kind.", "tools": [WEATHER]},
        {"messages": [*HELLO, {"role": "assistant", "content": "Hello! How"}]},
    ):
        found = await client.messages.count_tokens(model="demo", **body)  # type: ignore[arg-type]
        strictly(MessageTokensCount, found.to_dict())
        made = await client.messages.create(model="demo", max_tokens=1, extra_body=COLD, **body)  # type: ignore[arg-type,call-overload]
        used = made.usage.input_tokens + (made.usage.cache_read_input_tokens or 0)
        assert found.input_tokens == used


async def test_counting_wakes_a_model_and_waits_for_it(house: House) -> None:
    client = house.anthropic
    task = asyncio.create_task(client.messages.count_tokens(model="away", messages=HELLO))
    try:
        await eventually(lambda: "away" in house.router.wanted)
        assert house.router.waiting("away") == 1
        ready = house.table.routes["demo"].engine
        route = Route("away", "ready", ready, 4)
        table = dataclasses.replace(house.table, routes={**house.table.routes, "away": route})
        house.router.apply(table)
        assert (await task).input_tokens > 0
    finally:
        task.cancel()
        house.router.apply(house.table)
    assert "away" not in house.router.wanted


async def test_each_mistake_has_its_class_of_error(house: House) -> None:
    client = house.anthropic
    ask: dict[str, Any] = {"max_tokens": 5, "messages": HELLO}
    with pytest.raises(anthropic.NotFoundError, match="add it to its aliases") as missing:
        await client.messages.create(model="claude-sonnet", **ask)
    assert missing.value.type == "not_found_error"
    assert missing.value.request_id
    alias = await client.messages.create(model="claude-demo", **ask)
    assert alias.model == "demo"
    with pytest.raises(anthropic.BadRequestError, match="context"):
        await client.messages.create(
            model="demo", max_tokens=5, messages=[{"role": "user", "content": "word " * 3000}]
        )
    with pytest.raises(anthropic.BadRequestError, match="not_supported"):
        tool: Any = {"type": "web_search_20250305", "name": "web_search"}
        await client.messages.create(model="demo", tools=[tool], **ask)
    for call in (
        client.messages.create(model="gone", **ask),
        client.messages.count_tokens(model="gone", messages=HELLO),
    ):
        with pytest.raises(anthropic.InternalServerError) as away:
            await call
        assert away.value.status_code == 503
        assert away.value.type == "overloaded_error"
        assert away.value.response.headers["retry-after"] == "2"
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.count_tokens(model="claude-sonnet", messages=HELLO)
