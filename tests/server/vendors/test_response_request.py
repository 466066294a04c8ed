"""/v1/responses: what a request becomes, what is refused, and what is kept of it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai.types.responses import Response, ResponseItemList

from appliance import wire
from appliance.server.responses import kept
from appliance.server.responses.kept import Kept
from appliance.supervisor.generation import Delta
from tests.server.conftest import Site
from tests.server.vendors.strict import strictly
from tests.server.vendors.test_message_events import CALL, FULL, script
from tests.server.waiting import eventually

pytestmark = pytest.mark.anyio
BODY: dict[str, Any] = {"model": "demo", "input": "Hello"}
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a place.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
CALLED = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Paris"}'}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


async def made(site: Site, **body: Any) -> dict[str, Any]:
    reply = await site.http.post("/v1/responses", json={**BODY, **body})
    assert reply.status_code == 200, reply.text
    response: dict[str, Any] = reply.json()
    strictly(Response, response, ours=("lmx_warning",))
    return response


async def asked(site: Site, **body: Any) -> wire.Submit:
    """What reaches the router."""
    await made(site, **body)
    return site.desk.asked[-1][1]


def error(reply: httpx.Response, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    said: dict[str, Any] = reply.json()["error"]
    return said


def text(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def parts(role: str, *texts: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": one} for one in texts]}


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ({}, [text("user", "Hello")]),
        ({"instructions": "Be kind."}, [text("system", "Be kind."), text("user", "Hello")]),
        (
            {"instructions": "A", "input": [text("developer", "B"), text("user", "Hello")]},
            [text("system", "A\nB"), text("user", "Hello")],
        ),
        ({"input": [parts("user", "One", "Two")]}, [text("user", "One\nTwo")]),
        (
            {
                "input": [
                    text("user", "Hello"),
                    {
                        "type": "reasoning",
                        "id": "rs_1",
                        "summary": [],
                        "content": [{"type": "reasoning_text", "text": "Hm."}],
                    },
                    parts("assistant", "I look."),
                    CALLED,
                    {"type": "function_call_output", "call_id": "c1", "output": "Rain"},
                    text("user", "So?"),
                ]
            },
            [
                text("user", "Hello"),
                {
                    "role": "assistant",
                    "content": "I look.",
                    "reasoning_content": "Hm.",
                    "tool_calls": [
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city":"Paris"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "Rain"},
                text("user", "So?"),
            ],
        ),
        (
            {
                "input": [
                    text("user", "Hello"),
                    CALLED,
                    {
                        "type": "function_call_output",
                        "call_id": "c1",
                        "output": [{"type": "input_text", "text": "Rain"}],
                    },
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Short."}]},
                ]
            },
            [
                text("user", "Hello"),
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city":"Paris"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "Rain"},
                {"role": "assistant", "content": "", "reasoning_content": "Short."},
            ],
        ),
    ],
)
async def test_a_conversation_as_templates_know_it(site: Site, body: Any, messages: Any) -> None:
    assert (await asked(site, **body)).messages == messages


async def test_numbers_and_what_the_response_repeats(site: Site) -> None:
    said = {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 7,
        "metadata": {"a": "b"},
        "user": "me",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "instructions": "Be kind.",
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "weather"},
        "parallel_tool_calls": False,
    }
    response = await made(site, **said)
    assert {key: response[key] for key in said} == said
    row = site.desk.asked[-1][1]
    assert row.sampling == wire.Sampling(temperature=0.5, top_p=0.9, max_tokens=7)
    assert site.desk.callers[-1].conversation == "k"


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        (None, ("auto", None)),
        ("auto", ("auto", None)),
        ("none", ("none", None)),
        ("required", ("required", None)),
        ({"type": "function", "name": "weather"}, ("required", ["weather"])),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
            ("auto", ["weather"]),
        ),
    ],
)
async def test_tools_and_their_choice(site: Site, choice: Any, found: Any) -> None:
    row = await asked(site, tools=[TOOL], tool_choice=choice)
    function = {key: TOOL[key] for key in ("name", "description", "parameters", "strict")}
    assert row.tools == [{"type": "function", "function": function}]
    assert (row.tool_choice, row.tool_names) == found


@pytest.mark.parametrize(
    ("form", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, wire.Grammar("json_object")),
    ],
)
async def test_a_form_for_the_answer(site: Site, form: Any, grammar: Any) -> None:
    assert (await asked(site, text={"format": form})).grammar == grammar


async def test_a_schema_for_the_answer(site: Site) -> None:
    form = {"type": "json_schema", "name": "found", "schema": SCHEMA, "strict": True}
    response = await made(site, text={"format": form})
    grammar = site.desk.asked[-1][1].grammar
    assert grammar is not None
    assert grammar.kind == "json_schema"
    assert response["text"]["format"] == {**form, "description": None}


@pytest.mark.parametrize(
    ("reasoning", "kwargs"),
    [
        ({"effort": "low", "summary": "auto"}, {"enable_thinking": True, "reasoning_effort": "low"}),
        ({"effort": "none"}, {"enable_thinking": False}),
        ({}, None),
    ],
)
async def test_effort(site: Site, reasoning: Any, kwargs: Any) -> None:
    assert (await asked(site, reasoning=reasoning)).template_kwargs == kwargs


async def test_what_asks_for_nothing_is_accepted(site: Site) -> None:
    await asked(
        site,
        background=False,
        truncation="disabled",
        service_tier="auto",
        store=False,
        include=[],
        text={"verbosity": "medium"},
        prompt_cache_options={"mode": "implicit"},
        conversation=None,
        max_tool_calls=None,
    )


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"input": []}, "invalid_request", "input"),
    ({"input": None}, "invalid_request", "input"),
    ({"input": ""}, "invalid_request", "input"),
    ({"max_output_tokens": 0}, "invalid_request", "max_output_tokens"),
    ({"top_logprobs": 21}, "invalid_request", "top_logprobs"),
    ({"background": True}, "not_supported", "background"),
    ({"truncation": "auto"}, "not_supported", "truncation"),
    ({"conversation": "conv_1"}, "not_supported", "conversation"),
    ({"prompt": {"id": "p"}}, "not_supported", "prompt"),
    ({"max_tool_calls": 3}, "not_supported", "max_tool_calls"),
    ({"service_tier": "flex"}, "not_supported", "service_tier"),
    ({"moderation": {"model": "m"}}, "not_supported", "moderation"),
    ({"context_management": [{"type": "compaction"}]}, "not_supported", "context_management"),
    ({"include": ["web_search_call.results"]}, "not_supported", "include[0]"),
    ({"text": {"verbosity": "low"}}, "not_supported", "text.verbosity"),
    ({"reasoning": {"summary": "detailed"}}, "not_supported", "reasoning.summary"),
    ({"reasoning": {"effort": "huge"}}, "invalid_request", "reasoning.effort"),
    ({"text": {"format": {"type": "json_schema"}}}, "invalid_request", "text.format.name"),
    ({"text": {"format": {"type": "text", "name": "x"}}}, "invalid_request", "text.format.name"),
    ({"surprise": 1}, "not_supported", "surprise"),
    ({"stream_options": {}}, "invalid_request", "stream_options"),
    ({"metadata": {str(i): "" for i in range(17)}}, "invalid_request", "metadata"),
    ({"tools": [{"type": "web_search"}]}, "not_supported", "tools[0].type"),
    ({"tools": [{"type": "mcp", "server_label": "x"}]}, "not_supported", "tools[0].type"),
    ({"tools": [TOOL, TOOL]}, "invalid_request", "tools[1]"),
    ({"tools": [{**TOOL, "name": ""}]}, "invalid_request", "tools[0].name"),
    ({"tools": [TOOL], "tool_choice": "sometimes"}, "invalid_request", "tool_choice"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}},
        "invalid_request",
        "tool_choice",
    ),
    ({"tools": [TOOL], "tool_choice": {"type": "file_search"}}, "not_supported", "tool_choice.type"),
    ({"tool_choice": "required"}, "invalid_request", "tool_choice"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "not_supported", "input[0].type"),
    ({"input": [{"type": "computer_call", "action": {}}]}, "not_supported", "input[0].type"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "not_supported",
        "input[0].content[0].type",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]},
        "not_supported",
        "input[0].content[0].type",
    ),
    ({"input": [{"role": "user"}]}, "invalid_request", "input[0].content"),
    ({"input": [{"content": "x"}]}, "invalid_request", "input[0].role"),
    (
        {"input": [{"role": "user", "content": "x", "arguments": "{}"}]},
        "invalid_request",
        "input[0].arguments",
    ),
    (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
        "invalid_request",
        "input[0].call_id",
    ),
    ({"input": [CALLED, CALLED]}, "invalid_request", "input[1].call_id"),
    (
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}]},
        "invalid_request",
        "input[0].encrypted_content",
    ),
    (
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "lmx1.!"}]},
        "invalid_request",
        "input[0].encrypted_content",
    ),
]


async def test_what_cannot_be_honoured_is_refused_by_name(site: Site) -> None:
    for body, code, param in REFUSED:
        said = error(await site.http.post("/v1/responses", json={**BODY, **body}), 400)
        assert (said["code"], said["param"]) == (code, param), body
        assert param.split(".")[0].split("[")[0] in said["message"]
    assert site.desk.asked == []


# --- what is kept ---------------------------------------------------------------------------------


async def test_a_conversation_goes_on_from_a_response(site: Site) -> None:
    script(site, *FULL)
    first = await made(site, input="Weather?", instructions="Not carried over.", tools=[TOOL])
    script(site, Delta("Rain.", 3), Delta("", 4, "stop"))
    outputs = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "wet"}
        for item in first["output"]
        if item["type"] == "function_call"
    ]
    second = await made(site, input=outputs, previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    script(site, Delta("Bye.", 3), Delta("", 4, "stop"))
    row = await asked(site, input="Thanks", previous_response_id=second["id"])
    assert row.messages is not None
    assert [message["role"] for message in row.messages] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "user",
    ]
    assert row.messages[0] == text("user", "Weather?")
    assert row.messages[1]["content"] == "Let me look.\u2028"
    assert row.messages[1]["reasoning_content"] == "They ask for weather."
    assert [one["function"]["arguments"] for one in row.messages[1]["tool_calls"]] == [
        '{"city": "Paris"}',
        "{}",
    ]
    assert row.messages[2]["tool_call_id"] == CALL
    assert row.messages[-1] == text("user", "Thanks")


async def test_a_response_can_be_read_again_listed_and_deleted(site: Site) -> None:
    script(site, *FULL)
    first = await made(site, input=[text("user", "A"), parts("assistant", "B"), parts("user", "C")])
    again = (await site.http.get(f"/v1/responses/{first['id']}")).json()
    assert again == first
    listed = (await site.http.get(f"/v1/responses/{first['id']}/input_items?order=asc")).json()
    strictly(ResponseItemList, listed)
    texts = [item["content"][0]["text"] for item in listed["data"]]
    assert (texts, listed["has_more"]) == (["A", "B", "C"], False)
    page = (await site.http.get(f"/v1/responses/{first['id']}/input_items?limit=2")).json()
    assert [item["content"][0]["text"] for item in page["data"]] == ["C", "B"]
    assert page["has_more"]
    rest = (await site.http.get(f"/v1/responses/{first['id']}/input_items?after={page['last_id']}")).json()
    assert [item["content"][0]["text"] for item in rest["data"]] == ["A"]
    script(site, Delta("", 1, "stop"))
    second = await made(site, input="D", previous_response_id=first["id"])
    listed = (await site.http.get(f"/v1/responses/{second['id']}/input_items?limit=100")).json()
    strictly(ResponseItemList, listed)
    kinds = [item["type"] for item in listed["data"]]
    assert kinds == ["message", "function_call", "function_call", "message", "reasoning", *["message"] * 3]
    gone = await site.http.delete(f"/v1/responses/{first['id']}")
    assert gone.json() == {"id": first["id"], "object": "response", "deleted": True}
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
        reply = await site.http.request(method, f"/v1/responses/{first['id']}{path}")
        assert error(reply, 404)["code"] == "not_found"
    broken = await site.http.post("/v1/responses", json={**BODY, "previous_response_id": second["id"]})
    assert error(broken, 404)["param"] == "previous_response_id"


async def test_what_is_not_to_be_kept_is_not(site: Site) -> None:
    response = await made(site, store=False)
    assert error(await site.http.get(f"/v1/responses/{response['id']}"), 404)["code"] == "not_found"


async def test_another_key_finds_nothing(site: Site) -> None:
    mine, other = {"authorization": "Bearer mine"}, {"authorization": "Bearer other"}
    response = (await site.http.post("/v1/responses", json=BODY, headers=mine)).json()
    path = f"/v1/responses/{response['id']}"
    for method, at in (("GET", path), ("DELETE", path), ("GET", f"{path}/input_items")):
        error(await site.http.request(method, at, headers=other), 404)
    body = {**BODY, "previous_response_id": response["id"]}
    said = error(await site.http.post("/v1/responses", json=body, headers=other), 404)
    assert said["param"] == "previous_response_id"
    assert (await site.http.get(path, headers=mine)).status_code == 200
    assert (await site.http.post("/v1/responses", json=body, headers=mine)).status_code == 200


def response_of(name: str, previous: str | None = None, size: int = 0) -> dict[str, Any]:
    return {"id": name, "previous_response_id": previous, "output": [], "padding": "x" * size}


async def test_the_oldest_go_first_and_a_chain_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "BYTES", 20_000)
    store = Kept()
    store.put("", response_of("a", size=4000), [])
    store.put("", response_of("b", "a", size=4000), [])
    store.put("", response_of("other", size=4000), [])
    store.conversation("", "b")  # used again: now `other` is the oldest
    store.put("", response_of("c", size=4000), [])
    assert {name for _, name in store._entries} == {"a", "b", "c"}
    store.put("", response_of("d", size=4000), [])
    assert {name for _, name in store._entries} == {"a", "c", "d"}
    assert store.size == sum(entry.size for entry in store._entries.values()) <= 20_000
    store.put("", response_of("huge", size=30_000), [])
    assert {name for _, name in store._entries} == {"a", "c", "d"}


async def test_what_nobody_used_for_long_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(kept, "_now", lambda: now)
    store = Kept()
    store.put("", response_of("a"), [])
    store.put("", response_of("b"), [])
    now = kept.SECONDS - 1
    store.conversation("", "a")
    now = kept.SECONDS + 1
    store.response("", "a")
    with pytest.raises(Exception, match="there is no response 'b'"):
        store.response("", "b")
    assert len(store) == 1


async def test_what_nobody_asks_for_again_goes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "SECONDS", 0.0)  # the timer never waits for less than a second
    store = Kept()
    for name in "abc":
        store.put("", response_of(name), [])
    assert len(store) == 3
    await eventually(lambda: not len(store))
    assert (store.size, store._timer) == (0, None)
