"""/v1/responses: every kind of answer, written down beforehand, whole and as a stream."""

from __future__ import annotations

import copy
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor.generation import Delta
from tests.server.conftest import Site
from tests.server.vendors.strict import events, strictly
from tests.server.vendors.test_message_events import CALL, FULL, OTHER, call, script, think

pytestmark = pytest.mark.anyio
BODY: dict[str, Any] = {"model": "demo", "input": "What is the weather?"}
OURS = ("lmx_warning",)
OUTPUT: list[dict[str, Any]] = [
    {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "They ask for weather."}],
    },
    {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Let me look.\u2028", "annotations": [], "logprobs": []}],
    },
    {"type": "function_call", "call_id": CALL, "name": "weather", "arguments": '{"city": "Paris"}'},
    {"type": "function_call", "call_id": OTHER, "name": "time", "arguments": "{}"},
]


async def whole(site: Site, **more: Any) -> dict[str, Any]:
    reply = await site.http.post("/v1/responses", json={**BODY, **more})
    assert reply.status_code == 200, reply.text
    response: dict[str, Any] = reply.json()
    strictly(Response, response, ours=OURS)
    return response


async def streamed(site: Site, **more: Any) -> list[dict[str, Any]]:
    """The events, each held against OpenAI's type, and their numbers."""
    reply = await site.http.post("/v1/responses", json={**BODY, **more, "stream": True})
    assert reply.status_code == 200, reply.text
    found = []
    for name, data in events(reply.content):
        assert name == data["type"]
        strictly(ResponseStreamEvent, data, ours=OURS)
        assert data["sequence_number"] == len(found)
        found.append(data)
    return found


def bare(items: list[dict[str, Any]], status: str = "completed") -> list[dict[str, Any]]:
    """Without what differs from one answer to the next."""
    for item in items:
        assert item["status"] == status
    return [{key: value for key, value in item.items() if key not in ("id", "status")} for item in items]


def built(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that the events between the first and the last make, put together piece by piece."""
    output: list[dict[str, Any]] = []
    for event in found:
        kind, index = event["type"], event.get("output_index")
        if kind == "response.output_item.added":
            assert index == len(output)
            output.append(copy.deepcopy(event["item"]))
            continue
        if index is None:
            continue
        item = output[index]
        assert event.get("item_id", item["id"]) == item["id"]
        if kind == "response.content_part.added":
            assert event["content_index"] == len(item["content"])
            item["content"].append(copy.deepcopy(event["part"]))
        elif kind.endswith("_text.delta"):
            item["content"][event["content_index"]]["text"] += event["delta"]
            if event.get("logprobs"):
                item["content"][event["content_index"]]["logprobs"] += event["logprobs"]
        elif kind == "response.function_call_arguments.delta":
            item["arguments"] += event["delta"]
        elif kind.endswith("_text.done"):
            assert item["content"][event["content_index"]]["text"] == event["text"]
        elif kind == "response.function_call_arguments.done":
            assert item["arguments"] == event["arguments"]
        elif kind == "response.content_part.done":
            assert item["content"][event["content_index"]]["text"] == event["part"]["text"]
        else:
            assert kind == "response.output_item.done"
            item["status"] = event["item"]["status"]
            assert {**event["item"], "content": item.get("content")} == {
                **item,
                "content": item.get("content"),
            }
    return output


async def test_an_answer_of_all_kinds_of_items_whole(site: Site) -> None:
    script(site, *FULL)
    response = await whole(site)
    assert bare(response["output"]) == OUTPUT
    assert (response["status"], response["incomplete_details"], response["error"]) == (
        "completed",
        None,
        None,
    )
    assert response["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 25,
    }


async def test_a_stream_tells_the_same_items(site: Site) -> None:
    script(site, *FULL)
    found = await streamed(site)
    kinds = [event["type"] for event in found]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert found[0]["response"]["status"] == "in_progress"
    assert bare(found[-1]["response"]["output"]) == OUTPUT
    assert bare(built(found)) == OUTPUT
    names = [item["id"] for item in found[-1]["response"]["output"]]
    assert names == [item["id"] for item in built(found)]
    assert found[0]["response"]["id"] == found[-1]["response"]["id"]


async def test_items_that_alternate_keep_their_order_in_a_stream(site: Site) -> None:
    script(
        site,
        Delta("One", 1),
        call(wire.CallPart(0, CALL, "a", "{}"), tokens=2),
        Delta("two", 3),
        think("hm", 4),
        call(wire.CallPart(1, OTHER, "b", "{}"), tokens=5),
        Delta("", 6, "stop"),
    )
    found = await streamed(site)
    kinds = ["message", "function_call", "message", "reasoning", "function_call"]
    assert [item["type"] for item in found[-1]["response"]["output"]] == kinds
    assert bare(built(found)) == bare(found[-1]["response"]["output"])


async def test_an_answer_cut_off_is_incomplete(site: Site) -> None:
    deltas = (Delta("Hel", 2), Delta("", 3, "length"))
    script(site, *deltas)
    response = await whole(site, max_output_tokens=3)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"
    script(site, *deltas)
    found = await streamed(site, max_output_tokens=3)
    assert found[-1]["type"] == "response.incomplete"
    assert found[-2]["item"]["status"] == "incomplete"


async def test_an_empty_answer_has_no_items(site: Site) -> None:
    script(site, Delta("", 1, "stop"))
    assert (await whole(site))["output"] == []
    script(site, Delta("", 1, "stop"))
    assert (await streamed(site))[-1]["response"]["output"] == []


def scored(text: str, tokens: int, *more: str) -> Delta:
    found = [
        wire.Logprob(one.encode(), -0.5, [(one.encode(), -0.5), (b"\xff", -3.0)]) for one in (text, *more)
    ]
    return Delta(text + "".join(more), tokens, more=wire.More(logprobs=found))


async def test_log_probabilities_are_those_of_the_text(site: Site) -> None:
    thought = wire.More(reasoning="hm", logprobs=[wire.Logprob(b"hm", -1.0)])
    held = wire.More(logprobs=[wire.Logprob(b"\xc3", -0.1)])  # half a character: no text yet
    rest = Delta("\u00e9", 4, more=wire.More(logprobs=[wire.Logprob(b"\xa9", -0.2)]))
    deltas = [Delta("", 1, more=thought), scored("A", 2), Delta("", 3, more=held), rest, Delta("", 5, "stop")]
    wish = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    for response in (
        (script(site, *deltas), await whole(site, **wish))[1],
        (script(site, *deltas), (await streamed(site, **wish))[-1]["response"])[1],
    ):
        part = response["output"][1]["content"][0]
        assert part["text"] == "A\u00e9"
        assert [one["bytes"] for one in part["logprobs"]] == [[65], [0xC3], [0xA9]]
        assert part["logprobs"][0]["top_logprobs"][1] == {"token": "\ufffd", "bytes": [255], "logprob": -3.0}
    assert site.desk.asked[-1][1].logprobs == 2
    script(site, *deltas)
    pieces = [
        event for event in await streamed(site, **wish) if event["type"] == "response.output_text.delta"
    ]
    assert [one["token"] for event in pieces for one in event["logprobs"]] == ["A", "\ufffd", "\ufffd"]


async def test_a_call_that_came_as_text_has_a_warning(site: Site) -> None:
    deltas = [Delta("<call>{", 3, more=wire.More(warning="no call")), Delta("", 4, "stop")]
    script(site, *deltas)
    assert (await whole(site))["lmx_warning"] == "no call"
    script(site, *deltas)
    assert (await streamed(site))[-1]["response"]["lmx_warning"] == "no call"


async def test_reasoning_can_be_kept_by_the_client(site: Site) -> None:
    script(site, *FULL)
    response = await whole(site, include=["reasoning.encrypted_content"], store=False)
    item = response["output"][0]
    assert item["encrypted_content"]
    del item["content"]
    question = {"role": "user", "content": "And?"}
    output = [{"type": "function_call_output", "call_id": name, "output": "x"} for name in (CALL, OTHER)]
    script(site, Delta("", 1, "stop"))
    await whole(site, input=[question, *response["output"], *output])
    messages = site.desk.asked[-1][1].messages
    assert messages is not None
    assert messages[1]["reasoning_content"] == "They ask for weather."


async def test_a_stream_that_fails_says_so_and_is_not_kept(site: Site) -> None:
    deltas: list[Delta | ApiError] = [Delta("Hel", 1), ApiError("engine_failed", "gone", retry_after=1)]
    script(site, *deltas)
    found = await streamed(site)
    assert [event["type"] for event in found[-2:]] == ["error", "response.failed"]
    assert (found[-2]["code"], found[-2]["message"]) == ("engine_failed", "gone")
    response = found[-1]["response"]
    assert response["error"] == {"code": "server_error", "message": "gone"}
    assert response["output"][0]["content"][0]["text"] == "Hel"
    assert (await site.http.get(f"/v1/responses/{response['id']}")).status_code == 404
    script(site, *deltas)
    async with openai.AsyncOpenAI(base_url=f"{site.url}/v1", api_key="any", max_retries=0) as client:
        kinds = [event.type async for event in await client.responses.create(**BODY, stream=True)]
    assert kinds[-1] == "response.failed"
