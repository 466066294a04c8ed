"""Tools, choices among them and conversations with calls: what reaches the engine, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from appliance import wire
from appliance.errors import ApiError
from appliance.server import rows, schema, tools
from appliance.server.parse import parse

HELLO = [{"role": "user", "content": "hi"}]
PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": PLACE}}
TIME = {"type": "function", "function": {"name": "time"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Rome"}'}}


def read(**body: Any) -> wire.Submit:
    data = json.dumps({"messages": HELLO, **body}).encode()
    (row,) = rows.chat(parse(data, schema.ChatRequest)).rows
    wire.encode(row)
    return row


def refused(**body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**body)
    assert caught.value.status == 400
    return caught.value


def offered(row: wire.Submit) -> tuple[Any, ...]:
    return row.tool_choice, row.tool_names, row.parallel_tool_calls


def test_tools_go_on_as_they_are() -> None:
    row = read(tools=[WEATHER, TIME])
    assert row.tools is not None
    assert row.tools[0] == WEATHER
    assert row.tools[1]["function"] == {"name": "time", "parameters": tools.NOTHING}
    assert offered(row) == ("auto", None, True)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"tool_choice": "auto"}, ("auto", None, True)),
        ({"tool_choice": None}, ("auto", None, True)),
        ({"tool_choice": "none"}, ("none", None, True)),
        ({"tool_choice": "required", "parallel_tool_calls": False}, ("required", None, False)),
        ({"tool_choice": {"type": "function", "function": {"name": "time"}}}, ("required", ["time"], True)),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [{"type": "function", "function": {"name": "time"}}],
                    },
                }
            },
            ("auto", ["time"], True),
        ),
    ],
)
def test_a_choice_says_whether_and_which(said: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert offered(read(tools=[WEATHER, TIME], **said)) == expected


@pytest.mark.parametrize(
    "said", [{}, {"tools": []}, {"tools": None, "tool_choice": "none"}, {"tool_choice": "auto"}]
)
def test_without_tools_there_is_nothing_to_choose(said: dict[str, Any]) -> None:
    assert read(**said) == read()


@pytest.mark.parametrize(
    ("body", "code", "param", "words"),
    [
        (
            {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
            "not_supported",
            "tools[0].type",
            "only function",
        ),
        ({"tools": [WEATHER, {"type": "web_search"}]}, "not_supported", "tools[1].type", "web_search"),
        ({"tools": [{"function": {"name": "x"}}]}, "not_supported", "tools[0].type", "null"),
        ({"tools": ["x"]}, "invalid_request", "tools[0]", "an object"),
        ({"tools": {"a": 1}}, "invalid_request", "tools", "a list"),
        ({"tools": [{"type": "function"}]}, "invalid_request", "tools[0].function", "required"),
        (
            {"tools": [{"type": "function", "function": {}}]},
            "invalid_request",
            "tools[0].function.name",
            "required",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "invalid_request",
            "tools[0].function.name",
            "letters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameter": {}}}]},
            "not_supported",
            "tools[0].function.parameter",
            "did you mean parameters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "string"}}}]},
            "invalid_request",
            "tools[0].function.parameters",
            "type object",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
            "invalid_request",
            "tools[0].function.parameters",
            "an object",
        ),
        ({"tools": [WEATHER, WEATHER]}, "invalid_request", "tools[1]", "weather"),
        ({"tools": [TIME] * (tools.MAX_TOOLS + 1)}, "invalid_request", "tools", "at most 512"),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "a", "description": "x" * tools.MAX_BYTES}}
                ]
            },
            "invalid_request",
            "tools",
            "bytes",
        ),
        ({"tool_choice": "required"}, "invalid_request", "tool_choice", "there are no tools"),
        ({"tools": [TIME], "tool_choice": "any"}, "invalid_request", "tool_choice", "required"),
        ({"tools": [TIME], "tool_choice": 7}, "invalid_request", "tool_choice", "a string"),
        (
            {"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
            "invalid_request",
            "tool_choice",
            "weather",
        ),
        ({"tools": [TIME], "tool_choice": {"type": "custom"}}, "not_supported", "tool_choice.type", "custom"),
        (
            {
                "tools": [TIME],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
            },
            "invalid_request",
            "tool_choice.allowed_tools.tools",
            "empty",
        ),
        ({"parallel_tool_calls": "no"}, "invalid_request", "parallel_tool_calls", "true or false"),
        ({"functions": [{"name": "f"}]}, "not_supported", "functions", "tools"),
        ({"function_call": {"name": "f"}}, "not_supported", "function_call", "tool_choice"),
    ],
)
def test_what_is_wrong_with_tools_is_named(body: dict[str, Any], code: str, param: str, words: str) -> None:
    error = refused(**body)
    assert (error.code, error.param) == (code, param)
    assert words in error.message


def test_a_conversation_with_calls_reaches_the_template_as_it_is() -> None:
    row = read(
        messages=[
            *HELLO,
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "hm",
                "tool_calls": [{**CALL, "index": 0}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sunny"}]},
            {"role": "assistant", "content": "Sunny.", "tool_calls": None, "refusal": None, "parsed": None},
        ]
    )
    assert row.messages == [
        *HELLO,
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "Sunny."},
    ]


CALLED = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [CALL]}]


@pytest.mark.parametrize(
    ("messages", "code", "param", "words"),
    [
        (
            [{"role": "tool", "tool_call_id": "call_1", "content": "x"}],
            "invalid_request",
            "messages[0].tool_call_id",
            "call_1",
        ),
        (
            [*CALLED, {"role": "tool", "content": "x"}],
            "invalid_request",
            "messages[2].tool_call_id",
            "required",
        ),
        (
            [*CALLED, {"role": "tool", "tool_call_id": "call_1"}],
            "invalid_request",
            "messages[2].content",
            "required",
        ),
        ([{**HELLO[0], "tool_call_id": "x"}], "invalid_request", "messages[0].tool_call_id", "role tool"),
        (
            [{**HELLO[0], "tool_calls": [CALL]}],
            "invalid_request",
            "messages[0].tool_calls",
            "only an assistant",
        ),
        (
            [{**HELLO[0], "reasoning_content": "x"}],
            "invalid_request",
            "messages[0].reasoning_content",
            "only an assistant",
        ),
        ([{"role": "assistant", "tool_calls": []}], "invalid_request", "messages[0].content", "required"),
        (
            [{"role": "assistant", "tool_calls": [{"type": "function"}]}],
            "invalid_request",
            "messages[0].tool_calls[0].id",
            "required",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}],
            "invalid_request",
            "messages[0].tool_calls[0].function",
            "required",
        ),
        (
            [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "x", "arguments": {}}}]}],
            "invalid_request",
            "messages[0].tool_calls[0].function.arguments",
            "a string",
        ),
        (
            [{"role": "assistant", "content": "x", "function_call": {"name": "f", "arguments": ""}}],
            "not_supported",
            "messages[0].function_call",
            "tool_calls",
        ),
        (
            [{"role": "function", "name": "f", "content": "x"}],
            "not_supported",
            "messages[0].role",
            "tool_call_id",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
            "not_supported",
            "messages[0].content[0].type",
            "only text is served",
        ),
        (
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
            "not_supported",
            "messages[0].content[0].type",
            "input_audio",
        ),
        (
            [{"role": "user", "content": [{"type": "file", "file": {}}]}],
            "not_supported",
            "messages[0].content[0].type",
            "only text is served",
        ),
    ],
)
def test_what_is_wrong_in_a_conversation_is_named(messages: Any, code: str, param: str, words: str) -> None:
    error = refused(messages=messages)
    assert (error.code, error.param) == (code, param)
    assert words in error.message
