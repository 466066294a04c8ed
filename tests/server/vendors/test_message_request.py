"""/v1/messages: what a request becomes, and what is refused."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import ThreadUnsupportedRequestErrorDetails
from anthropic.types.shared import ErrorResponse

from appliance import wire
from appliance.errors import ApiError
from tests.server.conftest import Site
from tests.server.vendors.strict import strictly

pytestmark = pytest.mark.anyio
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
BODY: dict[str, Any] = {"model": "demo", "max_tokens": 100, "messages": HELLO}
TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a place.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
USE = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris", "n": 1.50}}
CALLED = [*HELLO, {"role": "assistant", "content": [USE]}]


async def asked(site: Site, **body: Any) -> wire.Submit:
    """What reaches the router."""
    reply = await site.http.post("/v1/messages", json={**BODY, **body})
    assert reply.status_code == 200, reply.text
    return site.desk.asked[-1][1]


async def refused(site: Site, **body: Any) -> dict[str, Any]:
    reply = await site.http.post("/v1/messages", json={**BODY, **body})
    return error(reply, 400)


def error(reply: httpx.Response, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    found = reply.json()
    strictly(ErrorResponse, found, ours=("code", "param"))
    assert found["request_id"] == reply.headers["request-id"] == reply.headers["x-request-id"]
    said: dict[str, Any] = found["error"]
    return said


def text(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def result(content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "call_1", "content": content, **more}


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ({}, [text("user", "Hello")]),
        ({"system": "Be kind."}, [text("system", "Be kind."), text("user", "Hello")]),
        (
            {
                "system": [
                    {"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}},
                    {"type": "text", "text": "B"},
                ]
            },
            [text("system", "A\nB"), text("user", "Hello")],
        ),
        (
            {
                "system": [
                    {"type": "text", "text": "x-anthropic-billing-header: 1"},
                    {"type": "text", "text": "B"},
                ]
            },
            [text("system", "B"), text("user", "Hello")],
        ),
        ({"messages": [*HELLO, text("user", "Again")]}, [text("user", "Hello\nAgain")]),
        (
            {"messages": [*HELLO, text("assistant", "Hi"), text("user", "Bye")]},
            [text("user", "Hello"), text("assistant", "Hi"), text("user", "Bye")],
        ),
        (
            {"messages": [*HELLO, text("system", "Now in French."), text("user", "Go")]},
            [text("user", "Hello"), text("system", "Now in French."), text("user", "Go")],
        ),
        (
            {
                "messages": [
                    *HELLO,
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "redacted_thinking", "data": "xyz"},
                            {"type": "thinking", "thinking": "Hm. ", "signature": "s"},
                            {"type": "thinking", "thinking": "Well.", "signature": ""},
                            {"type": "text", "text": "I "},
                            {"type": "text", "text": "look."},
                            USE,
                        ],
                    },
                    {"role": "user", "content": [result("Rain"), {"type": "text", "text": "So?"}]},
                ]
            },
            [
                text("user", "Hello"),
                {
                    "role": "assistant",
                    "content": "I look.",
                    "reasoning_content": "Hm. Well.",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city":"Paris","n":1.5}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "Rain"},
                text("user", "So?"),
            ],
        ),
    ],
)
async def test_a_conversation_as_templates_know_it(site: Site, body: Any, messages: Any) -> None:
    assert (await asked(site, **body)).messages == messages


@pytest.mark.parametrize(
    ("block", "content"),
    [
        (result("Rain", is_error=False), "Rain"),
        (result([{"type": "text", "text": "Rain"}, {"type": "text", "text": "Wind"}]), "Rain\nWind"),
        (result("No such city", is_error=True), "Error: No such city"),
        ({"type": "tool_result", "tool_use_id": "call_1"}, ""),
    ],
)
async def test_what_a_tool_said(site: Site, block: Any, content: str) -> None:
    row = await asked(site, messages=[*CALLED, {"role": "user", "content": [block]}])
    assert row.messages is not None
    assert row.messages[-1] == {"role": "tool", "tool_call_id": "call_1", "content": content}


async def test_the_beginning_of_an_answer_is_gone_on_with(site: Site) -> None:
    row = await asked(site, messages=[*HELLO, text("assistant", "I am")])
    assert row.continue_final
    assert row.messages is not None
    assert row.messages[-1] == text("assistant", "I am")
    assert not (await asked(site)).continue_final


async def test_numbers_and_stops(site: Site) -> None:
    row = await asked(site, temperature=0.5, top_p=0.9, top_k=5, max_tokens=7, stop_sequences=["END", "\n\n"])
    assert row.sampling == wire.Sampling(temperature=0.5, top_p=0.9, top_k=5, max_tokens=7)
    assert row.stop == ["END", "\n\n"]


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        (None, ("auto", None, True)),
        ({"type": "auto"}, ("auto", None, True)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", None, False)),
        ({"type": "any"}, ("required", None, True)),
        (
            {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
            ("required", ["weather"], False),
        ),
        ({"type": "none"}, ("none", None, True)),
    ],
)
async def test_tools_and_their_choice(site: Site, choice: Any, found: Any) -> None:
    body = {} if choice is None else {"tool_choice": choice}
    row = await asked(
        site, tools=[{**TOOL, "type": "custom", "cache_control": {"type": "ephemeral"}}], **body
    )
    function = {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": TOOL["input_schema"],
    }
    assert row.tools == [{"type": "function", "function": function}]
    assert (row.tool_choice, row.tool_names, row.parallel_tool_calls) == found


@pytest.mark.parametrize(
    ("thinking", "kwargs", "budget"),
    [
        ({"type": "enabled", "budget_tokens": 64}, {"enable_thinking": True}, 64),
        ({"type": "adaptive"}, None, None),
        ({"type": "disabled"}, {"enable_thinking": False}, None),
    ],
)
async def test_thinking(site: Site, thinking: Any, kwargs: Any, budget: int | None) -> None:
    row = await asked(site, thinking=thinking)
    assert (row.template_kwargs, row.thinking_budget) == (kwargs, budget)
    assert (await asked(site)).template_kwargs is None


async def test_effort_and_a_form_for_the_answer(site: Site) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    config = {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    row = await asked(site, output_config=config)
    assert row.template_kwargs == {"reasoning_effort": "low"}
    assert row.grammar is not None
    assert row.grammar.kind == "json_schema"
    assert "integer" in row.grammar.text


async def test_what_asks_for_nothing_is_accepted(site: Site) -> None:
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    await asked(
        site,
        cache_control={"type": "ephemeral", "ttl": "1h"},
        service_tier="auto",
        metadata={"user_id": "me"},
        speed="standard",
        context_management=edits,
        mcp_servers=[],
        container=None,
    )
    assert site.desk.callers[-1].session == "me"


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "invalid_request", "messages"),
    ({"max_tokens": 0}, "invalid_request", "max_tokens"),
    ({"temperature": 2.5}, "invalid_request", "temperature"),
    ({"top_k": -1}, "invalid_request", "top_k"),
    ({"stop_sequences": [""]}, "invalid_request", "stop_sequences"),
    ({"mcp_servers": [{"type": "url", "url": "http://x"}]}, "not_supported", "mcp_servers"),
    ({"container": "c"}, "not_supported", "container"),
    ({"speed": "fast"}, "not_supported", "speed"),
    ({"inference_geo": "us"}, "not_supported", "inference_geo"),
    (
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        "not_supported",
        "context_management",
    ),
    ({"surprise": 1}, "not_supported", "surprise"),
    ({"thinking": {"type": "enabled"}}, "invalid_request", "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "invalid_request", "thinking.budget_tokens"),
    ({"thinking": {"type": "disabled", "budget_tokens": 9}}, "invalid_request", "thinking.budget_tokens"),
    ({"thinking": {"type": "between_tools"}}, "not_supported", "thinking.type"),
    (
        {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]},
        "not_supported",
        "tools[0].type",
    ),
    ({"tools": [{"name": "weather"}]}, "invalid_request", "tools[0].input_schema"),
    ({"tools": [{**TOOL, "name": "a b"}]}, "invalid_request", "tools[0].name"),
    ({"tools": [TOOL, TOOL]}, "invalid_request", "tools[1]"),
    ({"tools": [{**TOOL, "input_schema": []}]}, "invalid_request", "tools[0].input_schema"),
    ({"tools": [{**TOOL, "defer_loading": True}]}, "not_supported", "tools[0].defer_loading"),
    ({"tools": [{**TOOL, "input_examples": [{}]}]}, "not_supported", "tools[0].input_examples"),
    ({"tool_choice": {"type": "any"}}, "invalid_request", "tool_choice.type"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}},
        "invalid_request",
        "tool_choice.name",
    ),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "invalid_request", "tool_choice.name"),
    ({"messages": CALLED}, "invalid_request", "messages[1]"),
    ({"messages": [*HELLO, text("assistant", "")]}, "invalid_request", "messages[1].content"),
    (
        {"messages": [{"role": "user", "content": [result("x")]}]},
        "invalid_request",
        "messages[0].content[0].tool_use_id",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}
            ]
        },
        "not_supported",
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
        "not_supported",
        "messages[0].content[0].type",
    ),
    (
        {"messages": [*CALLED, {"role": "user", "content": [result([{"type": "image", "source": {}}])]}]},
        "not_supported",
        "messages[2].content[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "invalid_request",
        "messages[0].content[0].text",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "thinking": "y"}]}]},
        "invalid_request",
        "messages[0].content[0].thinking",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "y"}]}]},
        "invalid_request",
        "messages[0].content[0].type",
    ),
    ({"messages": [*CALLED, *CALLED[1:]]}, "invalid_request", "messages[2].content[0].id"),
    ({"system": [{"type": "image", "source": {}}]}, "not_supported", "system[0].type"),
]


async def test_what_cannot_be_honoured_is_refused_by_name(site: Site) -> None:
    for body, code, param in REFUSED:
        said = await refused(site, **body)
        assert (said["type"], said["code"], said["param"]) == ("invalid_request_error", code, param), body
        assert param.split(".")[0].split("[")[0] in said["message"]
    assert site.desk.asked == []


async def test_a_thread_is_refused_as_clients_know_it(site: Site) -> None:
    reply = await site.http.post("/v1/messages", json={**BODY, "thread": {"type": "create"}})
    found = reply.json()
    strictly(ErrorResponse, found, ours=("code", "param", "details"))
    strictly(ThreadUnsupportedRequestErrorDetails, found["error"]["details"])
    assert (reply.status_code, found["error"]["param"]) == (400, "thread")


async def test_max_tokens_is_required(site: Site) -> None:
    reply = await site.http.post("/v1/messages", json={"model": "demo", "messages": HELLO})
    assert error(reply, 400)["param"] == "max_tokens"


async def test_refusals_before_the_handler_have_the_same_shape(site: Site) -> None:
    assert error(await site.http.get("/v1/messages"), 405)["code"] == "method_not_allowed"
    assert error(await site.http.post("/v1/messages/nothing"), 404)["type"] == "not_found_error"
    foreign = await site.http.post("/v1/messages", json=BODY, headers={"origin": "http://elsewhere"})
    assert error(foreign, 403)["type"] == "permission_error"
    plain = await site.http.post("/v1/messages", content=b"{}", headers={"content-type": "text/plain"})
    assert error(plain, 400)["code"] == "invalid_request"
    site.board.set(max_body="1KiB")
    large = await site.http.post("/v1/messages", json={**BODY, "system": "x" * 2000})
    assert error(large, 413)["code"] == "request_too_large"
    site.desk.full = ApiError("overloaded", "full", retry_after=3)
    full = await site.http.post("/v1/messages", json=BODY)
    assert error(full, 503)["type"] == "overloaded_error"
    assert full.headers["retry-after"] == "3"


async def test_models_in_the_shape_of_who_asks(site: Site) -> None:
    async with anthropic.AsyncAnthropic(base_url=site.url, api_key="any", max_retries=0) as client:
        page = await client.models.list()
        assert [model.id for model in page.data] == ["demo"]
        one = await client.models.retrieve("small/demo")
        assert (one.id, one.max_input_tokens) == ("demo", 512)
        raw = await site.http.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
        strictly(anthropic.types.ModelInfo, raw.json()["data"][0])
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.models.retrieve("claude-nothing")
    assert missing.value.type == "not_found_error"
    assert "object" in (await site.http.get("/v1/models")).json()
