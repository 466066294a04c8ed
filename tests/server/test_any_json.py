"""Whatever JSON comes: an answer or a 4xx that says why, never a 500."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance import wire
from appliance.errors import ApiError
from appliance.server import rows, schema
from appliance.server.parse import parse
from tests.server.conftest import Site

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["user", "text", "system", "tool", "auto", "none", "json_object", "\ud800", "\x00"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
parts = st.fixed_dictionaries(
    {"type": st.just("text") | scalars}, optional={"text": scalars, "image_url": values, "other": values}
)


def mostly(good: st.SearchStrategy[Any], other: st.SearchStrategy[Any] = values) -> st.SearchStrategy[Any]:
    """`one_of` would give each part of `other` as much room as `good`."""
    return st.integers(0, 3).flatmap(lambda number: good if number else other)


names = mostly(st.sampled_from(["a", "b"]))
calls = st.fixed_dictionaries(
    {"id": names},
    optional={
        "type": mostly(st.just("function")),
        "function": mostly(st.fixed_dictionaries({"name": names, "arguments": mostly(st.text(max_size=5))})),
        "index": scalars,
    },
)
messages = st.fixed_dictionaries(
    {"role": mostly(st.sampled_from(["user", "assistant", "system", "developer", "tool"]))},
    optional={
        "content": mostly(st.text(max_size=5), scalars | st.lists(parts, max_size=3)),
        "name": scalars,
        "tool_calls": mostly(st.lists(calls, max_size=2)),
        "tool_call_id": names,
        "reasoning_content": mostly(st.text(max_size=5)),
    },
)
schemas = mostly(st.just({"type": "object"}))
functions = st.fixed_dictionaries(
    {"name": names}, optional={"parameters": schemas, "description": mostly(st.text(max_size=5))}
)
tools = st.fixed_dictionaries({"type": mostly(st.just("function")), "function": mostly(functions)})
named = st.fixed_dictionaries(
    {"type": st.just("function"), "function": st.fixed_dictionaries({"name": names})}
)
allowed = st.fixed_dictionaries(
    {
        "type": st.just("allowed_tools"),
        "allowed_tools": st.fixed_dictionaries(
            {"mode": mostly(st.sampled_from(["auto", "required"])), "tools": st.lists(named, max_size=2)}
        ),
    }
)
forms = st.one_of(
    st.fixed_dictionaries({"type": mostly(st.sampled_from(["text", "json_object"]))}),
    st.fixed_dictionaries({"type": st.just("regex"), "pattern": mostly(st.text(max_size=5))}),
    st.fixed_dictionaries({"type": st.just("grammar"), "grammar": mostly(st.text(max_size=5))}),
    st.fixed_dictionaries(
        {
            "type": st.just("json_schema"),
            "json_schema": mostly(st.fixed_dictionaries({"name": names, "schema": schemas})),
        }
    ),
)


def bodies(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Mostly a good beginning and a few fields of likely or any values; else plain nonsense."""
    likely: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(kind.__struct_fields__, values)
    good = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
    likely["messages"] = mostly(st.lists(messages, max_size=4))
    likely["tools"] = mostly(st.lists(tools, max_size=3))
    likely["tool_choice"] = mostly(st.sampled_from(["auto", "none", "required"]) | named | allowed)
    likely["response_format"] = mostly(forms)
    likely["prompt"] = st.lists(st.integers(0, 9), max_size=3) | st.text(max_size=5) | values
    likely = {name: likely[name] for name in kind.__struct_fields__}
    likely["unknown"] = values
    rich = [name for name in ("messages", "tools", "tool_choice", "response_format") if name in likely] * 6
    base = {name: value for name, value in good.items() if name in likely}

    @st.composite
    def body(draw: Any) -> dict[str, Any]:
        chosen = draw(st.lists(st.sampled_from(sorted(likely) + rich), max_size=3, unique=True))
        if "tool_choice" in chosen:
            chosen.append("tools")
        return {**base, **{name: draw(likely[name]) for name in chosen}}

    return mostly(body())


def check(data: bytes, kind: type[Any], make: Any) -> None:
    try:
        submits = make(parse(data, kind))
    except ApiError as refusal:
        error = refusal
    else:
        for submit in submits:  # what is accepted can be sent
            wire.encode(submit)
        return
    assert 400 <= error.status < 500
    assert error.message
    msgspec.json.encode(error.body())


@settings(max_examples=300, deadline=None)
@given(bodies(schema.ChatRequest))
def test_any_chat_body_is_taken_or_refused(body: Any) -> None:
    check(json.dumps(body).encode(), schema.ChatRequest, lambda body: rows.chat(body).rows)


@settings(max_examples=300, deadline=None)
@given(bodies(schema.CompletionRequest))
def test_any_completion_body_is_taken_or_refused(body: Any) -> None:
    check(json.dumps(body).encode(), schema.CompletionRequest, rows.completion_rows)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    check(data, schema.ChatRequest, lambda body: rows.chat(body).rows)


@pytest.mark.anyio
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(path=st.sampled_from(["/v1/chat/completions", "/v1/completions", "/admin/models/load"]), body=values)
async def test_any_json_over_http_is_never_a_500(site: Site, path: str, body: Any) -> None:
    data = json.dumps(body).encode()
    reply = await site.http.post(path, content=data, headers={"content-type": "application/json"})
    assert reply.status_code < 500
    assert reply.status_code == 200 or reply.json()["error"]["code"]
