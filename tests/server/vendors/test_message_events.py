"""/v1/messages: every kind of answer, written down beforehand, whole and as a stream."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor.generation import Delta
from tests.server.conftest import Site
from tests.server.stand import Answer
from tests.server.vendors.strict import events, strictly

pytestmark = pytest.mark.anyio
BODY: dict[str, Any] = {
    "model": "demo",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "What is the weather?"}],
}
OURS = ("code", "param", "lmx_warning")
CALL = "call_" + "0" * 24
OTHER = "call_" + "1" * 24


def think(text: str, tokens: int) -> Delta:
    return Delta("", tokens, more=wire.More(reasoning=text, reasoning_tokens=tokens))


def call(*parts: wire.CallPart, tokens: int = 9, text: str = "", warning: str | None = None) -> Delta:
    return Delta(text, tokens, more=wire.More(calls=list(parts), warning=warning))


FULL: list[Delta | ApiError] = [
    think("They ask ", 2),
    think("for weather.", 4),
    Delta("Let me", 6),
    Delta(" look.\u2028", 7),
    call(wire.CallPart(0, CALL, "weather", "")),
    call(wire.CallPart(0, None, None, '{"city": ')),
    call(wire.CallPart(0, None, None, '"Paris"}'), wire.CallPart(1, OTHER, "time", "{}")),
    Delta("", 20, "stop"),
]
CONTENT = [
    {"type": "thinking", "thinking": "They ask for weather."},
    {"type": "text", "text": "Let me look.\u2028"},
    {"type": "tool_use", "id": CALL, "name": "weather", "input": {"city": "Paris"}},
    {"type": "tool_use", "id": OTHER, "name": "time", "input": {}},
]


def script(site: Site, *deltas: Delta | ApiError) -> None:
    site.desk.answer = lambda _: Answer(list(deltas))


async def whole(site: Site, **more: Any) -> dict[str, Any]:
    reply = await site.http.post("/v1/messages", json={**BODY, **more})
    assert reply.status_code == 200, reply.text
    message: dict[str, Any] = reply.json()
    strictly(Message, message, ours=OURS)
    return message


async def streamed(site: Site, **more: Any) -> list[dict[str, Any]]:
    """The events, each held against Anthropic's type, in the order that the documentation demands."""
    reply = await site.http.post("/v1/messages", json={**BODY, **more, "stream": True})
    assert reply.status_code == 200, reply.text
    found = []
    for name, data in events(reply.content):
        assert name == data["type"]
        if name not in ("ping", "error"):
            strictly(RawMessageStreamEvent, data, ours=OURS)
        found.append(data)
    return found


def content(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that a stream makes, put together as Anthropic's documentation says."""
    blocks: list[dict[str, Any]] = []
    inputs: dict[int, str] = {}
    is_open: int | None = None
    for event in found:
        if event["type"] == "content_block_start":
            assert is_open is None
            is_open = event["index"]
            assert is_open == len(blocks)
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            assert event["index"] == is_open
            delta = event["delta"]
            block = blocks[event["index"]]
            if delta["type"] == "input_json_delta":
                inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
            elif delta["type"] == "signature_delta":
                block["signature"] = delta["signature"]
            else:
                key = delta["type"].removesuffix("_delta")
                block[key] += delta[key]
        elif event["type"] == "content_block_stop":
            assert event["index"] == is_open
            is_open = None
    assert is_open is None
    for index, text in inputs.items():
        blocks[index]["input"] = json.loads(text)
    return blocks


def unsigned(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for block in blocks:
        if block["type"] == "thinking":
            assert block.pop("signature")
    return blocks


async def test_an_answer_of_all_kinds_of_blocks_whole(site: Site) -> None:
    script(site, *FULL)
    message = await whole(site)
    assert unsigned(message["content"]) == CONTENT
    assert (message["stop_reason"], message["stop_sequence"]) == ("tool_use", None)
    assert message["usage"] == {
        "input_tokens": 3,
        "cache_read_input_tokens": 2,
        "cache_creation_input_tokens": 0,
        "output_tokens": 20,
        "output_tokens_details": {"thinking_tokens": 4},
        "service_tier": "standard",
    }


async def test_a_stream_tells_the_same_blocks(site: Site) -> None:
    script(site, *FULL)
    found = await streamed(site)
    kinds = [event["type"] for event in found]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert found[0]["message"]["usage"]["input_tokens"] == 3
    assert found[0]["message"]["content"] == []
    assert unsigned(content(found)) == CONTENT
    last = found[-2]
    assert last["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert last["usage"]["output_tokens"] == 20
    assert last["usage"]["output_tokens_details"] == {"thinking_tokens": 4}


async def test_text_between_calls_keeps_its_place_in_a_stream(site: Site) -> None:
    script(
        site,
        Delta("One", 1),
        call(wire.CallPart(0, CALL, "a", "{}"), tokens=2),
        Delta("two", 3),
        think("hm", 4),
        call(wire.CallPart(1, OTHER, "b", "{}"), tokens=5),
        Delta("", 6, "stop"),
    )
    blocks = content(await streamed(site))
    assert [block["type"] for block in blocks] == ["text", "tool_use", "text", "thinking", "tool_use"]


async def test_one_delta_may_hold_all(site: Site) -> None:
    more = wire.More(reasoning="R", calls=[wire.CallPart(0, CALL, "a", '{"x":1}')])
    script(site, Delta("T", 5, "stop", None, more))
    blocks = content(await streamed(site))
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use"]
    assert blocks[2]["input"] == {"x": 1}


@pytest.mark.parametrize(
    ("last", "reason", "sequence"),
    [
        (Delta("", 3, "stop"), "end_turn", None),
        (Delta("", 3, "length"), "max_tokens", None),
        (Delta("", 3, "stop", "END"), "stop_sequence", "END"),
    ],
)
async def test_why_it_stopped(site: Site, last: Delta, reason: str, sequence: str | None) -> None:
    script(site, Delta("Hello", 2), last)
    message = await whole(site, stop_sequences=["END"])
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)
    script(site, Delta("Hello", 2), last)
    found = await streamed(site, stop_sequences=["END"])
    assert found[-2]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


async def test_an_empty_answer_has_no_blocks(site: Site) -> None:
    script(site, Delta("", 1, "stop"))
    assert (await whole(site))["content"] == []
    script(site, Delta("", 1, "stop"))
    assert content(await streamed(site)) == []


async def test_a_call_that_came_as_text_has_a_warning(site: Site) -> None:
    deltas = [Delta("<call>{", 3, more=wire.More(warning="no call")), Delta("", 4, "stop")]
    script(site, *deltas)
    message = await whole(site)
    assert message["lmx_warning"] == "no call"
    assert message["content"] == [{"type": "text", "text": "<call>{"}]
    script(site, *deltas)
    assert (await streamed(site))[-2]["lmx_warning"] == "no call"


async def test_a_call_cut_off_by_max_tokens_shows_what_there_is_of_it(site: Site) -> None:
    deltas = [call(wire.CallPart(0, CALL, "weather", '{"city": "Par')), Delta("", 10, "length")]
    script(site, *deltas)
    message = await whole(site)
    assert message["stop_reason"] == "max_tokens"
    assert message["content"] == [{"type": "tool_use", "id": CALL, "name": "weather", "input": {}}]
    assert '{"city": "Par' in message["lmx_warning"]


async def test_thinking_that_is_not_to_be_shown(site: Site) -> None:
    wish = {"type": "enabled", "budget_tokens": 50, "display": "omitted"}
    script(site, *FULL)
    message = await whole(site, thinking=wish)
    assert message["content"][0]["thinking"] == ""
    script(site, *FULL)
    found = await streamed(site, thinking=wish)
    assert content(found)[0]["thinking"] == ""
    assert not any(event.get("delta", {}).get("type") == "thinking_delta" for event in found)


async def test_a_stream_that_fails_ends_with_an_error_event(site: Site) -> None:
    script(site, Delta("Hel", 1), ApiError("engine_failed", "gone", retry_after=1))
    found = await streamed(site)
    error = strictly(ErrorResponse, found[-1], ours=OURS)
    assert error.error.type == "api_error"
    assert found[-1]["error"]["code"] == "engine_failed"
    assert "message_stop" not in [event["type"] for event in found]
    script(site, Delta("Hel", 1), ApiError("engine_failed", "gone", retry_after=1))
    async with anthropic.AsyncAnthropic(base_url=site.url, api_key="any", max_retries=0) as client:
        with pytest.raises(anthropic.APIStatusError) as failed:
            async with client.messages.stream(**BODY) as stream:
                await stream.until_done()
    assert failed.value.type == "api_error"
