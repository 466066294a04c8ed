"""Answers of several parts: reasoning, text, calls, log-probabilities; whole and streamed, the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from appliance import wire
from appliance.server.logprobs import Offsets
from appliance.supervisor.generation import Delta
from tests.server.conftest import Site
from tests.server.sdk import events, strict
from tests.server.stand import Answer

pytestmark = pytest.mark.anyio
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "hi"}]}
HEAD = wire.CallPart(0, "call_a", "weather", "")


def more(**parts: Any) -> wire.More:
    return wire.More(**parts)


DELTAS = [
    Delta("", 2, more=more(reasoning="Let me", reasoning_tokens=2)),
    Delta("One ", 4, more=more(reasoning=" see.", reasoning_tokens=3)),
    Delta("moment.", 5, more=more(reasoning_tokens=3)),
    Delta("", 5, more=more(reasoning_tokens=3)),
    Delta("", 6, more=more(calls=[HEAD, wire.CallPart(0, None, None, '{"place"')])),
    Delta("", 7, more=more(calls=[wire.CallPart(0, None, None, ': "Rome"}')])),
    Delta("", 9, more=more(calls=[wire.CallPart(1, "call_b", "time", "{}")], warning="one did not parse")),
    Delta("", 10, "stop"),
]


async def whole(site: Site, path: str, body: dict[str, Any], deltas: list[Delta]) -> Any:
    site.desk.answer = lambda _: Answer(list(deltas))
    reply = await site.http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def streamed(site: Site, path: str, body: dict[str, Any], deltas: list[Delta]) -> list[Any]:
    site.desk.answer = lambda _: Answer(list(deltas))
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    *found, done = events((await site.http.post(path, json=asked)).text)
    assert done == "[DONE]"
    return [json.loads(event) for event in found]


def put_together(chunks: list[Any]) -> dict[str, Any]:
    """The message that a client makes of a stream."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            for key in ("content", "reasoning_content"):
                message[key] += delta.get(key) or ""
            for call in delta.get("tool_calls") or ():
                if call["index"] == len(message["tool_calls"]):
                    message["tool_calls"].append(
                        {"id": call["id"], "type": call["type"], "function": dict(call["function"])}
                    )
                else:
                    assert call.keys() == {"index", "function"}
                    function = message["tool_calls"][call["index"]]["function"]
                    function["arguments"] += call["function"]["arguments"]
    return message


async def test_a_whole_answer_has_its_parts_in_their_places(site: Site) -> None:
    body = await whole(site, CHAT, HELLO, DELTAS)
    strict(ChatCompletion, body)
    (choice,) = body["choices"]
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": "One moment.",
            "refusal": None,
            "reasoning_content": "Let me see.",
            "tool_calls": [
                {
                    "id": "call_a",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"place": "Rome"}'},
                },
                {"id": "call_b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
            ],
        },
        "logprobs": None,
        "finish_reason": "tool_calls",
        "lmx_warning": "one did not parse",
    }
    assert body["usage"]["completion_tokens"] == 10
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}


async def test_a_stream_tells_the_parts_in_order_one_kind_to_an_event(site: Site) -> None:
    chunks = await streamed(site, CHAT, HELLO, DELTAS)
    for chunk in chunks:
        strict(ChatCompletionChunk, chunk)
    kinds = [tuple(choice["delta"]) for chunk in chunks for choice in chunk["choices"]]
    assert kinds == [
        ("role", "content"),
        ("reasoning_content",),
        ("reasoning_content",),
        ("content",),
        ("content",),
        ("tool_calls",),
        ("tool_calls",),
        ("tool_calls",),
        (),
    ]
    assert put_together(chunks) == {
        key: value
        for key, value in (await whole(site, CHAT, HELLO, DELTAS))["choices"][0]["message"].items()
        if key not in ("role", "refusal")
    }
    assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"]][-1] == "tool_calls"
    assert [c["lmx_warning"] for chunk in chunks for c in chunk["choices"] if "lmx_warning" in c] == [
        "one did not parse"
    ]
    assert chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}


async def test_an_answer_of_calls_alone_has_no_content(site: Site) -> None:
    message = (await whole(site, CHAT, HELLO, DELTAS[3:]))["choices"][0]["message"]
    assert message["content"] is None
    assert "reasoning_content" not in message


async def test_calls_that_were_cut_off_are_told_as_length(site: Site) -> None:
    cut = [DELTAS[3], Delta("", 7, "length")]
    assert (await whole(site, CHAT, HELLO, cut))["choices"][0]["finish_reason"] == "length"
    assert (await streamed(site, CHAT, HELLO, cut))[-2]["choices"][0]["finish_reason"] == "length"


async def test_usage_does_not_tell_of_reasoning_where_there_was_none(site: Site) -> None:
    body = await whole(site, CHAT, HELLO, [Delta("Hi", 1), Delta("", 2, "stop")])
    assert "completion_tokens_details" not in body["usage"]


TOKENS = [
    Delta("H", 1, more=more(logprobs=[wire.Logprob(b"H", -0.5, [(b"H", -0.5), (b"\xc3", -2.0)])])),
    Delta("", 2, more=more(logprobs=[wire.Logprob(b"\xc3", -0.25)])),
    Delta("\u00e9!", 4, more=more(logprobs=[wire.Logprob(b"\xa9", 0.0), wire.Logprob(b"!", -1.0)])),
    Delta("", 5, "stop"),
]


async def test_log_probabilities_of_a_chat_are_told_token_by_token(site: Site) -> None:
    asked = {**HELLO, "logprobs": True, "top_logprobs": 2}
    body = await whole(site, CHAT, asked, TOKENS)
    strict(ChatCompletion, body)
    content = body["choices"][0]["logprobs"]["content"]
    assert [(one["token"], one["bytes"], one["logprob"]) for one in content] == [
        ("H", [72], -0.5),
        ("\ufffd", [0xC3], -0.25),
        ("\ufffd", [0xA9], 0.0),
        ("!", [33], -1.0),
    ]
    assert content[0]["top_logprobs"] == [
        {"token": "H", "logprob": -0.5, "bytes": [72]},
        {"token": "\ufffd", "logprob": -2.0, "bytes": [0xC3]},
    ]
    assert site.desk.asked[-1][1].logprobs == 2
    chunks = await streamed(site, CHAT, asked, TOKENS)
    for chunk in chunks:
        strict(ChatCompletionChunk, chunk)
    told = [c["logprobs"] for chunk in chunks for c in chunk["choices"] if c["logprobs"]]
    assert [one for logprobs in told for one in logprobs["content"]] == content


async def test_log_probabilities_of_a_completion_have_its_own_shape(site: Site) -> None:
    body = await whole(site, TEXT, {"prompt": "x", "logprobs": 2}, TOKENS)
    strict(Completion, body)
    found = body["choices"][0]["logprobs"]
    assert found == {
        "tokens": ["H", "\ufffd", "\ufffd", "!"],
        "token_logprobs": [-0.5, -0.25, 0.0, -1.0],
        "top_logprobs": [{"H": -0.5, "\ufffd": -2.0}, {}, {}, {}],
        "text_offset": [0, 1, 2, 2],
    }
    chunks = await streamed(site, TEXT, {"prompt": "x", "logprobs": 2}, TOKENS)
    told = [c["logprobs"] for chunk in chunks for c in chunk["choices"] if c["logprobs"]]
    assert {key: [one for logprobs in told for one in logprobs[key]] for key in found} == found
    for chunk in chunks:
        for choice in chunk["choices"]:
            # OpenAI sends null before the end as well; its package's type for whole answers has none.
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        strict(Completion, chunk)


@given(st.lists(st.text(max_size=6), max_size=6), st.data())
def test_offsets_count_characters_however_bytes_are_cut_into_tokens(texts: list[str], data: Any) -> None:
    text = "".join(texts)
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=5))) if raw else []
    tokens = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if a < b]
    offsets = Offsets()
    found = [at for token in tokens for at in offsets.next([wire.Logprob(token, 0.0)])["text_offset"]]
    starts = [len(b"".join(tokens[:i]).decode(errors="ignore")) for i in range(len(tokens))]
    for token, at, start in zip(tokens, found, starts, strict=True):
        carries_on = token[0] & 0xC0 == 0x80
        assert at == start + carries_on


PIECES = st.text('ab\u00e9\u2028{}"\\\n', max_size=4)
CALLS = st.lists(PIECES, max_size=2)


@st.composite
def answers(draw: Any) -> list[Delta]:
    """Any deltas that an engine may send: calls begin with a head, and pieces follow it."""
    deltas, calls = [], 0
    for n in range(draw(st.integers(0, 8))):
        parts = []
        for arguments in draw(CALLS):
            if calls == 0 or draw(st.booleans()):
                parts.append(wire.CallPart(calls, f"call_{calls}", "f", arguments))
                calls += 1
            else:
                parts.append(wire.CallPart(calls - 1, None, None, arguments))
        found = wire.More(draw(PIECES), parts)
        plain = not (found.reasoning or parts) and draw(st.booleans())
        deltas.append(Delta(draw(PIECES), n + 1, more=None if plain else found))
    return [*deltas, Delta(draw(PIECES), len(deltas) + 1, draw(st.sampled_from(["stop", "length"])))]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deltas=answers())
async def test_deltas_put_together_are_the_whole_answer(site: Site, deltas: list[Delta]) -> None:
    body = await whole(site, CHAT, HELLO, deltas)
    strict(ChatCompletion, body)
    chunks = await streamed(site, CHAT, HELLO, deltas)
    for chunk in chunks:
        strict(ChatCompletionChunk, chunk)
    (choice,) = body["choices"]
    message = {"reasoning_content": "", "tool_calls": [], **choice["message"]}
    message["content"] = message["content"] or ""
    assert put_together(chunks) == {k: message[k] for k in ("content", "reasoning_content", "tool_calls")}
    assert chunks[-2]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert chunks[-1]["usage"] == body["usage"]
