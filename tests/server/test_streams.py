"""What a stream does when things go wrong: a failing engine, a client that leaves, one that reads nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from appliance.errors import ApiError
from appliance.server import sse
from appliance.supervisor.generation import Delta
from tests.server import raw
from tests.server.conftest import BOTH_LOOPS, Site
from tests.server.stand import Answer, said
from tests.server.waiting import eventually, soon

pytestmark = [pytest.mark.anyio, BOTH_LOOPS]
CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
STREAM = json.dumps({**ASK, "stream": True}).encode()
WHOLE = json.dumps(ASK).encode()


async def test_a_refusal_before_the_stream_is_a_plain_error_with_retry_after(site: Site) -> None:
    def full(_: int) -> Answer:
        raise ApiError("overloaded", "64 requests are waiting already", retry_after=2.2)

    site.desk.answer = full
    reply = await site.http.post(CHAT, content=STREAM, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "3")
    assert reply.json()["error"] == {
        "message": "64 requests are waiting already",
        "type": "server_error",
        "param": None,
        "code": "overloaded",
    }


async def test_a_stream_that_fails_midway_ends_with_an_error_event_and_no_done(site: Site) -> None:
    died = ApiError("engine_failed", "the engine died", retry_after=1)
    site.desk.answer = lambda _: Answer([Delta("Hel", 1), died])
    reply = await site.http.post(CHAT, json={**ASK, "stream": True})
    events = [event.removeprefix("data: ") for event in reply.text.split("\n\n") if event]
    assert json.loads(events[-1])["error"]["code"] == "engine_failed"
    assert "[DONE]" not in reply.text
    assert site.desk.answers[0].cancelled.is_set()
    assert (await site.http.get("/healthz")).status_code == 200


async def test_the_official_client_raises_on_a_stream_that_fails_midway(site: Site) -> None:
    site.desk.answer = lambda _: Answer([Delta("Hel", 1), ApiError("engine_failed", "the engine died")])
    async with client_of(site) as client:
        stream = await client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match="the engine died"):
            async for _ in stream:
                pass


async def test_a_row_that_is_ended_early_is_an_error_and_not_a_short_answer(site: Site) -> None:
    site.desk.answer = lambda _: Answer([Delta("Hel", 1), Delta("", 1, "cancelled")])
    whole = await site.http.post(CHAT, json=ASK)
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "engine_failed")
    streamed = await site.http.post(CHAT, json={**ASK, "stream": True})
    assert "engine_failed" in streamed.text
    assert "[DONE]" not in streamed.text


async def test_an_unforeseen_failure_midway_is_told_too(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.desk.answer = lambda _: Answer([Delta("Hel", 1), Delta(7, 2)])  # type: ignore[arg-type]
    reply = await site.http.post(CHAT, json={**ASK, "stream": True})
    assert '"internal_error"' in reply.text
    assert "[DONE]" not in reply.text
    assert "failed" in caplog.text


async def test_the_role_comes_before_the_first_token(site: Site) -> None:
    site.desk.answer = lambda _: Answer()
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, STREAM))
        status, headers = await line.head()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert b'"role":"assistant"' in await line.until(b"\n\n")


async def test_comments_keep_a_long_prefill_alive(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.05)
    site.desk.answer = lambda _: Answer()
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, STREAM))
        await line.until(b": keep-alive\n\n")
        await line.until(b": keep-alive\n\n")
        for delta in said("late"):
            site.desk.answers[0].queue.put_nowait(delta)
        await line.until(b"late")
        assert b"keep-alive" not in await line.until(b"[DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("body", [STREAM, WHOLE], ids=["stream", "whole"])
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_client_that_leaves_frees_its_row(site: Site, body: bytes, how: str) -> None:
    site.desk.answer = lambda _: Answer()
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, body))
        await eventually(lambda: bool(site.desk.answers))
        if how == "reset":
            line.cut()
    await soon(site.desk.answers[0].cancelled)


@pytest.mark.parametrize("body", [STREAM, WHOLE], ids=["stream", "whole"])
async def test_a_client_that_leaves_the_queue_is_forgotten(site: Site, body: bytes) -> None:
    site.desk.hold = asyncio.Event()
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, body))
        await eventually(lambda: bool(site.desk.asked))
    await soon(site.desk.abandoned)
    assert site.desk.answers == []


async def test_a_client_that_leaves_after_a_long_upload_is_noticed_too(site: Site) -> None:
    """Sanic pauses reading while a big body comes in; a paused connection would never say goodbye."""
    site.desk.answer = lambda _: Answer()
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 3_000_000}]}).encode()
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, body))
        await eventually(lambda: bool(site.desk.answers))
    await soon(site.desk.answers[0].cancelled)


async def test_a_client_that_leaves_frees_all_its_rows(site: Site) -> None:
    site.desk.answer = lambda _: Answer()
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, json.dumps({**ASK, "n": 4, "stream": True}).encode()))
        await eventually(lambda: len(site.desk.answers) == 4)
    for answer in site.desk.answers:
        await soon(answer.cancelled)


async def test_a_reader_that_stops_is_waited_for_without_growing_memory(site: Site) -> None:
    produced = 0

    class Endless(Answer):
        async def __anext__(self) -> Delta:
            nonlocal produced
            produced += 1
            await asyncio.sleep(0)
            return Delta("x" * 10_000, produced)

    site.desk.answer = lambda _: Endless()
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, STREAM))
        await line.head()
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        before = -1
        async with asyncio.timeout(20):
            while produced != before:  # stands still once all buffers on the way are full
                before = produced
                await asyncio.sleep(0.2)
        assert (await site.http.get("/healthz")).status_code == 200
    await soon(site.desk.answers[0].cancelled)


async def test_a_reader_that_never_resumes_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "STALL_S", 0.1)

    class Endless(Answer):
        async def __anext__(self) -> Delta:
            await asyncio.sleep(0)
            return Delta("x" * 10_000, 1)

    site.desk.answer = lambda _: Endless()
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, STREAM))
        await line.head()
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await soon(site.desk.answers[0].cancelled)


async def test_a_connection_serves_the_next_request_after_a_stream(site: Site) -> None:
    async with raw.connect(site.port) as line:
        for _ in range(3):
            await line.send(raw.post(CHAT, STREAM))
            await line.until(b"[DONE]\n\n\r\n0\r\n\r\n")
        await line.send(raw.get("/healthz"))
        assert (await line.reply()).json() == {"status": "ok"}


async def test_http_1_0_gets_a_stream_without_chunks(site: Site) -> None:
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, STREAM).replace(b"HTTP/1.1", b"HTTP/1.0"))
        _, headers = await line.head()
        assert "transfer-encoding" not in headers
        body = (await line.ended()).decode()
    assert body.startswith("data: {")
    assert body.endswith("data: [DONE]\n\n")


async def test_line_breaks_beyond_ascii_do_not_cut_an_event(site: Site) -> None:
    text = "a\u2028b\u2029c\u0085d\r\ne\U0001f642"
    site.desk.answer = lambda _: Answer(said(text))
    reply = await site.http.post(CHAT, json={**ASK, "stream": True})
    events = [line for line in reply.text.splitlines() if line]
    assert all(line.startswith("data: ") for line in events)
    assert json.loads(events[1].removeprefix("data: "))["choices"][0]["delta"]["content"] == text


async def test_choices_come_side_by_side_and_are_told_apart(site: Site) -> None:
    site.desk.answer = lambda i: Answer(said(f"choice {i}"))
    body = {**ASK, "n": 3, "seed": 5, "stream": True, "stream_options": {"include_usage": True}}
    reply = await site.http.post(CHAT, json=body)
    events = [event.removeprefix("data: ") for event in reply.text.split("\n\n") if event]
    chunks = [json.loads(event) for event in events[:-1]]
    texts = {0: "", 1: "", 2: ""}
    finishes = {}
    for chunk in chunks[:-1]:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
            finishes[choice["index"]] = choice["finish_reason"]
    assert sorted(texts.values()) == ["choice 0", "choice 1", "choice 2"]
    assert finishes == {0: "stop", 1: "stop", 2: "stop"}
    assert chunks[-1]["usage"]["prompt_tokens"] == 5
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    seeds = [submit.seed for _, submit in site.desk.asked]
    assert seeds[0] == 5
    assert len(set(seeds)) == 3


async def test_one_choice_that_fails_ends_them_all(site: Site) -> None:
    site.desk.answer = lambda i: Answer([ApiError("engine_failed", "gone")] if i == 2 else [])
    reply = await site.http.post(CHAT, json={**ASK, "n": 3, "stream": True})
    assert '"engine_failed"' in reply.text
    assert "[DONE]" not in reply.text
    assert all(answer.cancelled.is_set() for answer in site.desk.answers)


async def test_one_choice_of_a_whole_answer_that_fails_ends_them_all(site: Site) -> None:
    site.desk.answer = lambda i: Answer([ApiError("engine_failed", "gone")] if i == 2 else [])
    reply = await site.http.post(CHAT, json={**ASK, "n": 3})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_failed")
    assert all(answer.cancelled.is_set() for answer in site.desk.answers)


def client_of(site: Site) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{site.url}/v1", api_key="any", max_retries=0)
