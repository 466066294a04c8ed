"""OpenAI's own package, unpatched, against a real appliance with the demo model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pydantic
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage

from tests.e2e.machine import ROOT, Machine
from tests.server.sdk import events, strict

QUESTIONS = json.loads((ROOT / "examples/demo/tool_questions.json").read_text())
KNOWN = [
    {
        "question": "What is the capital of France?",
        "reasoning": "The country is France. Its capital is Paris.",
        "answer": "The capital of France is Paris.",
    },
    {
        "question": "Hello!",
        "reasoning": "This is small talk. A short answer will do.",
        "answer": "Hello! How can I help you?",
    },
]
HELLO: Any = [{"role": "user", "content": "Hello"}]
CITY: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME: Any = {**CITY, "function": {**CITY["function"], "name": "get_time"}}


@pytest.fixture(scope="module")
def client(shared: Machine) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url(shared)}/v1", api_key="any", max_retries=0) as made:
        yield made


def url(machine: Machine) -> str:
    return f"http://127.0.0.1:{machine.port}"


def chat(client: openai.OpenAI, messages: Any = HELLO, **more: Any) -> ChatCompletion:
    found: ChatCompletion = client.chat.completions.create(model="demo", messages=messages, **more)
    return found


def streamed(client: openai.OpenAI, messages: Any = HELLO, **more: Any) -> ChatCompletion:
    """The answer that the package's own accumulator makes of a stream."""
    with client.chat.completions.stream(model="demo", messages=messages, **more) as stream:
        for _ in stream:
            pass
        return stream.get_final_completion()


def calls(message: ChatCompletionMessage) -> list[tuple[str, Any]]:
    found = []
    for call in message.tool_calls or ():
        assert call.type == "function"
        assert re.fullmatch(r"call_[0-9a-f]{24}", call.id)
        found.append((call.function.name, json.loads(call.function.arguments)))
    return found


# --- whole and streamed ---------------------------------------------------------------------------------


def bodies() -> list[Any]:
    tools = {"tools": [CITY, TIME], "tool_choice": "required"}
    return [
        pytest.param({}, id="plain"),
        pytest.param({"n": 2, "seed": 3, "temperature": 1}, id="choices"),
        pytest.param({"logprobs": True, "top_logprobs": 3, "max_tokens": 8}, id="logprobs"),
        pytest.param(tools, id="calls"),
        pytest.param({"response_format": {"type": "json_object"}, "max_tokens": 40}, id="json"),
        pytest.param({"max_tokens": 2}, id="cut"),
    ]


@pytest.mark.parametrize("more", bodies())
def test_every_answer_and_every_chunk_is_of_openais_own_types(shared: Machine, more: Any) -> None:
    body = {"model": "demo", "messages": HELLO, **more}
    with httpx.Client(base_url=url(shared), timeout=60) as http:
        whole = http.post("/v1/chat/completions", json=body).json()
        strict(ChatCompletion, whole)
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, done = events(http.post("/v1/chat/completions", json={**body, **stream}).text)
    assert done == "[DONE]"
    found = [strict(ChatCompletionChunk, json.loads(chunk)) for chunk in chunks]
    assert found[-1].usage is not None
    assert found[-1].usage.completion_tokens == whole["usage"]["completion_tokens"]


def test_every_completion_and_every_chunk_is_of_openais_own_types(shared: Machine) -> None:
    body = {"model": "demo", "prompt": "The capital of France is", "max_tokens": 5, "logprobs": 2}
    with httpx.Client(base_url=url(shared), timeout=60) as http:
        whole = strict(Completion, http.post("/v1/completions", json=body).json())
        *chunks, done = events(http.post("/v1/completions", json={**body, "stream": True}).text)
    assert done == "[DONE]"
    found = []
    for chunk in map(json.loads, chunks):
        for choice in chunk["choices"]:
            # OpenAI sends null before the end as well; its package's type for whole answers has none.
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        found.append(strict(Completion, chunk))
    assert "".join(c.choices[0].text for c in found) == whole.choices[0].text
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == whole.choices[0].text
    assert len(logprobs.tokens) > 1


def test_log_probabilities_belong_to_the_tokens_of_the_answer(client: openai.OpenAI) -> None:
    answer = chat(client, logprobs=True, top_logprobs=2, temperature=0)
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    said = b"".join(bytes(one.bytes or ()) for one in choice.logprobs.content)
    assert said.decode().startswith(choice.message.content or "?")
    for one in choice.logprobs.content:
        assert one.logprob <= 0
        assert one.top_logprobs[0].token == one.token  # the likeliest was taken
        assert one.top_logprobs[0].logprob >= one.top_logprobs[1].logprob


def test_a_seed_gives_the_same_choices_again(client: openai.OpenAI) -> None:
    def texts(seed: int) -> list[str]:
        answer = client.completions.create(
            model="demo", prompt="The", n=3, seed=seed, temperature=2, max_tokens=12
        )
        return [choice.text for choice in answer.choices]

    one = texts(7)
    assert len(one) == 3
    assert texts(7) == one
    assert texts(8) != one


# --- tools ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [chat, streamed])
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q["question"])
def test_a_question_is_answered_with_the_help_of_tools(
    client: openai.OpenAI, question: Any, how: Any
) -> None:
    messages: list[Any] = [{"role": "user", "content": question["question"]}]
    first = how(client, messages, tools=question["tools"]).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.content in (None, "")
    assert calls(first.message) == [(call["name"], call["arguments"]) for call in question["calls"]]
    messages.append(first.message)
    for call, result in zip(first.message.tool_calls, question["results"], strict=True):
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    last = how(client, messages, tools=question["tools"]).choices[0]
    assert (last.finish_reason, last.message.content) == ("stop", question["answer"])
    assert not last.message.tool_calls


@pytest.mark.parametrize("how", [chat, streamed])
def test_a_choice_is_kept_to(client: openai.OpenAI, how: Any) -> None:
    tools = [CITY, TIME]
    named = {"type": "function", "function": {"name": "get_time"}}
    (call,) = calls(how(client, tools=tools, tool_choice=named, parallel_tool_calls=False).choices[0].message)
    assert call[0] == "get_time"
    assert call[1].keys() == {"city"}
    required = how(client, tools=tools, tool_choice="required", max_tokens=200).choices[0]
    assert required.finish_reason == "tool_calls"
    assert calls(required.message)
    weather: Any = [{"role": "user", "content": QUESTIONS[0]["question"]}]
    assert not how(client, weather, tools=tools, tool_choice="none").choices[0].message.tool_calls
    allowed = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "get_time"}}],
        },
    }
    found = calls(how(client, weather, tools=tools, tool_choice=allowed, max_tokens=200).choices[0].message)
    assert {name for name, _ in found} == {"get_time"}


# --- thinking ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [chat, streamed])
@pytest.mark.parametrize("thought", KNOWN, ids=lambda q: q["question"])
def test_what_a_model_thinks_comes_apart_from_what_it_says(
    client: openai.OpenAI, thought: Any, how: Any
) -> None:
    asked: Any = [{"role": "user", "content": thought["question"]}]
    answer = how(client, asked, reasoning_effort="low")
    message = answer.choices[0].message
    assert message.model_extra["reasoning_content"].strip() == thought["reasoning"]
    assert message.content.strip() == thought["answer"]
    if how is chat:  # the package asks a stream for no usage
        tokens = answer.usage.completion_tokens_details.reasoning_tokens
        assert 0 < tokens < answer.usage.completion_tokens
    silent = how(client, asked, reasoning_effort="none").choices[0].message
    assert "reasoning_content" not in (silent.model_extra or {})
    assert silent.content.strip() == thought["answer"]


def test_a_model_thinks_no_longer_than_its_budget(client: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": KNOWN[0]["question"]}]
    free, held = (
        chat(client, asked, reasoning_effort="low", extra_body=more)
        for more in ({}, {"thinking_budget": 4})
    )  # fmt: skip
    thoughts = [answer.choices[0].message.model_extra["reasoning_content"] for answer in (free, held)]
    assert thoughts[0].startswith(thoughts[1].rstrip())
    assert 0 < len(thoughts[1]) < len(thoughts[0])
    assert held.choices[0].message.content


def test_a_form_holds_for_the_answer_and_not_for_the_thought(client: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": KNOWN[0]["question"]}]
    regex = {"response_format": {"type": "regex", "pattern": "[0-9]{2}!"}}
    message = chat(client, asked, reasoning_effort="low", extra_body=regex).choices[0].message
    assert message.model_extra["reasoning_content"].strip() == KNOWN[0]["reasoning"]
    assert re.fullmatch("[0-9]{2}!", message.content or "")


# --- structured output ------------------------------------------------------------------------------------


class Weather(pydantic.BaseModel):
    """What the demo model could not know by itself to answer with."""

    model_config = pydantic.ConfigDict(extra="forbid")
    city: Literal["Paris", "Rome"]
    degrees: int = pydantic.Field(ge=-50, le=50)
    dry: bool


def test_an_answer_is_parsed_as_the_type_that_was_asked_for(client: openai.OpenAI) -> None:
    for seed in range(3):
        answer = client.chat.completions.parse(
            model="demo", messages=HELLO, response_format=Weather, temperature=1.5, seed=seed, max_tokens=100
        )
        assert isinstance(answer.choices[0].message.parsed, Weather)


def test_a_stream_is_parsed_as_the_type_that_was_asked_for(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="demo", messages=HELLO, response_format=Weather, max_tokens=100
    ) as stream:
        found = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(found, Weather)


def test_a_regex_and_a_grammar_are_kept_to(client: openai.OpenAI) -> None:
    regex = {"response_format": {"type": "regex", "pattern": "[a-f]{3}-[0-9]{2}"}}
    answer = chat(client, extra_body=regex, temperature=1.5)
    assert re.fullmatch("[a-f]{3}-[0-9]{2}", answer.choices[0].message.content or "")
    grammar = {"response_format": {"type": "grammar", "grammar": 'start: ("yes" | "no") " " /[0-9]/'}}
    completion = client.completions.create(model="demo", prompt="So?", extra_body=grammar, max_tokens=20)
    assert re.fullmatch("(yes|no) [0-9]", completion.choices[0].text)


def test_what_cannot_be_enforced_is_refused(client: openai.OpenAI) -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object", "$ref": "http://a/b"}},
    }
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, response_format=form)
    assert caught.value.code == "unsupported_grammar"
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, extra_body={"response_format": {"type": "regex", "pattern": "(["}})
    assert caught.value.code == "unsupported_grammar"


# --- errors -----------------------------------------------------------------------------------------------


def test_errors_of_an_engine_are_the_exceptions_of_the_package(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        chat(client, [{"role": "user", "content": "word " * 20_000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as picture:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        chat(client, [{"role": "user", "content": [image]}])
    assert picture.value.code == "not_supported"
    assert picture.value.param == "messages[0].content[0].type"
