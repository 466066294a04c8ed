"""What form an answer must have, how much is thought before it, and what is told of its tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from appliance import wire
from appliance.errors import ApiError
from appliance.server import answer_format, rows, schema
from appliance.server.parse import parse

HELLO = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def chat(**body: Any) -> wire.Submit:
    data = json.dumps({"messages": HELLO, **body}).encode()
    (row,) = rows.chat(parse(data, schema.ChatRequest)).rows
    return row


def text(**body: Any) -> wire.Submit:
    data = json.dumps({"prompt": "hi", **body}).encode()
    (row,) = rows.completion_rows(parse(data, schema.CompletionRequest))
    return row


@pytest.mark.parametrize("read", [chat, text])
@pytest.mark.parametrize(
    ("form", "grammar"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, wire.Grammar("json_object")),
        ({"type": "regex", "pattern": "[0-9]+"}, wire.Grammar("regex", "[0-9]+")),
        ({"type": "grammar", "grammar": 'start: "a"'}, wire.Grammar("lark", 'start: "a"')),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}},
            wire.Grammar("json_schema", json.dumps(SCHEMA)),
        ),
    ],
)
def test_a_form_becomes_a_grammar(read: Any, form: Any, grammar: wire.Grammar | None) -> None:
    assert read(response_format=form).grammar == grammar


@pytest.mark.parametrize("number", [b"1e400", b"-" + b"9" * 5000])
def test_a_number_that_no_reader_takes_is_the_clients_fault(number: bytes) -> None:
    """Responses and Messages hand over the schema as it came."""
    with pytest.raises(ApiError) as caught:
        answer_format.json_schema(Raw(b'{"maximum": %b}' % number), "text.format.schema")
    assert (caught.value.code, caught.value.param) == ("invalid_request", "text.format.schema[...]")


LONG = "x" * answer_format.MAX_BYTES


@pytest.mark.parametrize(
    ("form", "code", "param", "words"),
    [
        ("json", "invalid_request", "response_format", "an object"),
        ({}, "not_supported", "response_format.type", "json_schema"),
        ({"type": "xml"}, "not_supported", "response_format.type", "json_schema"),
        ({"type": "json_object", "schema": {}}, "not_supported", "response_format.schema", "schema"),
        ({"type": "json_schema"}, "invalid_request", "response_format.json_schema", "required"),
        (
            {"type": "json_schema", "json_schema": {"schema": {}}},
            "invalid_request",
            "response_format.json_schema.name",
            "required",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
            "invalid_request",
            "response_format.json_schema.name",
            "letters",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a"}},
            "invalid_request",
            "response_format.json_schema.schema",
            "JSON Schema",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": []}},
            "invalid_request",
            "response_format.json_schema.schema",
            "JSON Schema",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "shema": {}}},
            "not_supported",
            "response_format.json_schema.shema",
            "did you mean schema",
        ),
        ({"type": "regex"}, "invalid_request", "response_format.pattern", "required"),
        ({"type": "regex", "pattern": ""}, "invalid_request", "response_format.pattern", "empty"),
        ({"type": "regex", "pattern": LONG}, "invalid_request", "response_format", "bytes"),
        ({"type": "grammar", "grammar": 7}, "invalid_request", "response_format.grammar", "a string"),
    ],
)
def test_what_is_wrong_with_a_form_is_named(form: Any, code: str, param: str, words: str) -> None:
    for read in (chat, text):
        with pytest.raises(ApiError) as caught:
            read(response_format=form)
        assert (caught.value.code, caught.value.param) == (code, param)
        assert words in caught.value.message


@pytest.mark.parametrize(
    ("said", "kwargs"),
    [
        ({}, None),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"reasoning_effort": "low"}, {"enable_thinking": True, "reasoning_effort": "low"}),
        ({"chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": True}),
        ({"chat_template_kwargs": {"reasoning_effort": "max"}}, {"reasoning_effort": "max"}),
        (
            {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "high"},
            {"enable_thinking": True, "reasoning_effort": "high"},
        ),
    ],
)
def test_how_much_to_think_reaches_the_template(said: dict[str, Any], kwargs: Any) -> None:
    assert chat(**said).template_kwargs == kwargs


def test_a_budget_and_a_beginning_reach_the_engine() -> None:
    begun = [*HELLO, {"role": "assistant", "content": "Well"}]
    row = chat(messages=begun, thinking_budget=0, continue_final_message=True)
    assert (row.thinking_budget, row.continue_final) == (0, True)


@pytest.mark.parametrize(
    ("said", "param", "words"),
    [
        ({"reasoning_effort": "much"}, "reasoning_effort", "much"),
        ({"thinking_budget": -1}, "thinking_budget", "from 0"),
        ({"continue_final_message": True}, "continue_final_message", "the assistant's"),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            "reasoning_effort",
            "contradict",
        ),
        (
            {"chat_template_kwargs": {"reasoning_effort": 3}},
            "chat_template_kwargs.reasoning_effort",
            "a string",
        ),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"logprobs": 3}, "logprobs", "true or false"),
    ],
)
def test_what_cannot_be_meant_is_refused(said: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**said)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("row", "logprobs"),
    [
        (lambda: chat(logprobs=False, top_logprobs=0), None),
        (lambda: chat(logprobs=True), 0),
        (lambda: chat(logprobs=True, top_logprobs=5), 5),
        (lambda: text(), None),
        (lambda: text(logprobs=0), 0),
        (lambda: text(logprobs=5), 5),
    ],
)
def test_how_many_log_probabilities_are_wanted(row: Any, logprobs: int | None) -> None:
    assert row().logprobs == logprobs
