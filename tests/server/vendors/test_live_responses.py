"""OpenAI's own package drives /v1/responses, with a real model."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pydantic
import pytest
from openai.types.responses import Response

from tests.server.vendors.conftest import House
from tests.server.vendors.strict import strictly

pytestmark = pytest.mark.anyio
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


async def test_a_response_whole_and_streamed(house: House) -> None:
    client = house.openai
    whole = await client.responses.create(model="demo", input="Hello", temperature=0)
    strictly(Response, whole.to_dict(mode="json"))
    assert whole.output_text
    assert whole.status == "completed"
    async with client.responses.stream(model="demo", input="Hello", temperature=0) as stream:
        pieces = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(pieces) == final.output_text == whole.output_text
    assert whole.usage is not None
    assert final.usage is not None
    assert final.usage.total_tokens == whole.usage.total_tokens
    again = await client.responses.retrieve(whole.id)
    assert again.to_dict() == whole.to_dict()


async def test_a_conversation_by_its_last_response(house: House) -> None:
    client = house.openai
    first = await client.responses.create(model="demo", input="Hello", temperature=0)
    second = await client.responses.create(
        model="demo", input="And who are you?", temperature=0, previous_response_id=first.id
    )
    whole = await client.responses.create(
        model="demo",
        input=[
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "And who are you?"},
        ],
        temperature=0,
    )
    assert second.output_text == whole.output_text
    assert second.usage is not None
    assert whole.usage is not None
    assert second.usage.input_tokens == whole.usage.input_tokens
    listed = [item async for item in client.responses.input_items.list(second.id, limit=1)]
    assert [getattr(item, "role", None) for item in listed] == ["user", "assistant", "user"]
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)


async def test_a_function_is_called_and_its_output_sent_back(house: House) -> None:
    client = house.openai
    first = await client.responses.create(
        model="demo",
        input="What is the weather in Paris?",
        tools=[WEATHER],
        tool_choice="required",
        temperature=0,
        max_output_tokens=90,
    )
    strictly(Response, first.to_dict(mode="json"))
    [call] = [item for item in first.output if item.type == "function_call"]
    assert call.name == "get_weather"
    assert set(json.loads(call.arguments)) == {"city"}
    async with client.responses.stream(
        model="demo",
        input="What is the weather in Paris?",
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "get_weather"},
        temperature=0,
        max_output_tokens=90,
    ) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    [same] = [item for item in final.output if item.type == "function_call"]
    assert json.loads(same.arguments) == json.loads(call.arguments)
    second = await client.responses.create(
        model="demo",
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}],
        previous_response_id=first.id,
        tools=[WEATHER],
        temperature=0,
        max_output_tokens=60,
    )
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    given = [item.type async for item in client.responses.input_items.list(second.id, order="asc")]
    assert given == ["message", "function_call", "function_call_output"]


class Found(pydantic.BaseModel):
    colour: Literal["red", "blue"]
    size: Literal[1, 2]


async def test_an_answer_is_parsed_into_a_model_of_the_client(house: House) -> None:
    parsed = await house.openai.responses.parse(
        model="demo", input="How many?", text_format=Found, temperature=0, max_output_tokens=60
    )
    assert parsed.status == "completed"
    assert isinstance(parsed.output_parsed, Found)


async def test_an_answer_cut_off(house: House) -> None:
    short = await house.openai.responses.create(
        model="demo",
        input="Hello",
        max_output_tokens=2,
        temperature=0,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    assert short.status == "incomplete"
    assert short.incomplete_details is not None
    assert short.incomplete_details.reason == "max_output_tokens"
    [item] = short.output
    assert item.type == "message"
    assert item.content[0].type == "output_text"
    logprobs = item.content[0].logprobs or []
    assert "".join(one.token for one in logprobs) == item.content[0].text
    assert all(len(one.top_logprobs) == 2 for one in logprobs)


async def test_tokens_are_counted_as_a_response_counts_them(house: House) -> None:
    client = house.openai
    made = await client.responses.create(
        model="demo", input="Hello", instructions="Be kind.", tools=[WEATHER]
    )
    found = await client.responses.input_tokens.count(
        model="demo", input="Hello", instructions="Be kind.", tools=[WEATHER]
    )
    assert made.usage is not None
    assert found.input_tokens == made.usage.input_tokens


async def test_each_mistake_has_its_class_of_error(house: House) -> None:
    client = house.openai
    with pytest.raises(openai.NotFoundError) as missing:
        await client.responses.create(model="gpt-nothing", input="Hello")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.responses.create(model="demo", input="Hello", previous_response_id="resp_nothing")
    assert unknown.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="demo", input="Hello", truncation="auto")
    assert (refused.value.code, refused.value.param) == ("not_supported", "truncation")
    with pytest.raises(openai.BadRequestError) as long:
        await client.responses.create(model="demo", input="word " * 3000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.InternalServerError) as away:
        await client.responses.create(model="gone", input="Hello")
    assert away.value.code == "no-model-loaded"
