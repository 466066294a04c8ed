"""Clients that mean no good, or know no better: the others are served all the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import time
from typing import Any

import pytest

from appliance.server import patience
from appliance.supervisor.generation import Delta
from tests.server import raw
from tests.server.conftest import BOTH_LOOPS, Site
from tests.server.stand import Answer, said
from tests.server.waiting import eventually

pytestmark = [pytest.mark.anyio, BOTH_LOOPS]
CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
BODY = json.dumps(ASK).encode()
STREAM = json.dumps({**ASK, "stream": True}).encode()


def held(site: Site) -> list[Any]:
    return [one for listener in site.listeners._listeners for one in listener.connections()]


def look(site: Site, later: float) -> None:
    """Judge the connections as if so many seconds had passed."""
    site.listeners._patience.look(held(site), time.monotonic() + later)


async def part(site: Site, what: str | None) -> None:
    """Until the server waits for this part of the only request there is."""

    def there() -> bool:
        found = [patience._part(one, one.http) for one in held(site) if one.http is not None]
        return bool(found) and all(seen == what for seen in found)

    await eventually(there)


async def served(site: Site) -> bool:
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, BODY))
        return (await line.reply()).status == 200


@pytest.mark.parametrize("head", [b"P", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-A: "])
async def test_a_head_that_does_not_end_is_cut_off(site: Site, head: bytes) -> None:
    async with raw.connect(site.port) as line:
        await line.send(head)
        await part(site, "head")
        look(site, 0)
        look(site, patience.HEAD_S - 5)
        await line.send(b"x")  # more bytes buy no time
        assert await served(site)
        look(site, patience.HEAD_S + 5)
        reply = await line.reply()
        assert (reply.status, reply.code, reply.headers["connection"]) == (400, "invalid_request", "close")
        assert "within 10 s" in reply.json()["error"]["message"]
        assert await line.ended() == b""


async def test_a_kept_connection_has_the_whole_time_for_each_head(site: Site) -> None:
    request = raw.get("/healthz")
    async with raw.connect(site.port) as line:
        for _ in range(3):
            await line.send(request[:20])
            await part(site, "head")
            look(site, 0)
            look(site, patience.HEAD_S - 5)
            await line.send(request[20:])
            assert (await line.reply()).status == 200
            await part(site, None)
            look(site, patience.HEAD_S + 5)


async def test_idle_connections_and_long_answers_are_nobodys_fault(site: Site) -> None:
    site.desk.answer = lambda _: Answer([Delta("one", 1)])
    async with raw.connect(site.port) as idle, raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, STREAM))
        await line.until(b"one")
        for later in (0, 100, 1000, 10_000):
            look(site, later)
        for delta in said("two"):
            site.desk.answers[0].queue.put_nowait(delta)
        await line.until(b"[DONE]\n\n\r\n0\r\n\r\n")
        await idle.send(raw.get("/healthz"))
        assert (await idle.reply()).status == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_trickles_is_cut_off(site: Site, chunked: bool) -> None:
    how = "Transfer-Encoding: chunked" if chunked else "Content-Length: 100000"
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, b"186A0\r\n" if chunked else b"", how))
        await part(site, "body")
        look(site, 0)
        await line.send(b" " * 2000)
        await part(site, "body")
        look(site, patience.BODY_S - 5)
        assert await served(site)
        look(site, patience.BODY_S + 1)
        reply = await line.reply()
        assert (reply.status, reply.code) == (400, "invalid_request")
        assert "1024 bytes a second" in reply.json()["error"]["message"]
        assert await line.ended() == b""
    assert len(site.desk.asked) == 1  # the other's


async def test_a_slow_line_that_gets_on_is_served(site: Site) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 60_000}]}).encode()
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, b"", f"Content-Length: {len(body)}"))
        await part(site, "body")
        look(site, 0)
        for turn in range(3):
            await line.send(body[turn * 20_000 : (turn + 1) * 20_000])
            want = min(len(body), (turn + 1) * 20_000)
            await eventually(lambda n=want: patience._received(held(site)[0].http) == n)  # type: ignore[misc]
            look(site, (turn + 1) * (patience.BODY_S + 1))
        await line.send(body[60_000:])
        assert (await line.reply()).status == 200


async def test_a_client_that_asks_and_never_reads_is_cut_off(site: Site) -> None:
    async with raw.connect(site.port) as line:
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        asks = raw.get("/v1/models") * 200

        def stuck() -> bool:
            return any(not one._can_write.is_set() for one in held(site))

        while not stuck():
            line.writer.write(asks)
            await asyncio.sleep(0)
            await site.http.get("/healthz")
        look(site, 0)
        look(site, patience.READ_S - 5)
        assert stuck()
        assert await served(site)
        look(site, patience.READ_S + 5)
        await eventually(lambda: not stuck())


async def test_a_refused_upload_that_trickles_on_is_cut_off_too(site: Site) -> None:
    async with raw.connect(site.port) as line:
        await line.send(raw.post("/nothing/here", b"", "Content-Length: 100000"))
        assert (await line.reply()).status == 404
        await part(site, "body")
        look(site, 0)
        look(site, patience.BODY_S + 1)
        assert await line.ended() == b""


@pytest.mark.parametrize(
    "flood",
    [b"X-Flood: 1\r\n" * 101, b"X-Flood: " + b"x" * 20_000 + b"\r\n", b"X-Flood: 1\r\n" * 100_000],
    ids=["count", "size", "both"],
)
async def test_floods_of_headers_are_refused_and_hung_up_on(site: Site, flood: bytes) -> None:
    async with raw.connect(site.port) as line:
        with contextlib.suppress(ConnectionError):  # it may hang up before all has come
            await line.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + flood + b"\r\n")
        with contextlib.suppress(ConnectionError):
            reply = await line.reply()
            assert (reply.status, reply.code) == (431, "request_too_large")
            assert reply.headers["connection"] == "close"
            await line.ended()
    assert await served(site)


async def test_over_the_limit_the_idlest_connections_make_room(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "BATCH", 2)
    site.listeners.most = 8
    site.desk.answer = lambda _: Answer([Delta("one", 1)])
    async with contextlib.AsyncExitStack() as stack:
        busy = await stack.enter_async_context(raw.connect(site.port))
        await busy.send(raw.post(CHAT, STREAM))
        await busy.until(b"one")
        idle = []
        for _ in range(7):
            idle.append(await stack.enter_async_context(raw.connect(site.port)))
            await idle[-1].send(raw.get("/healthz"))
            assert (await idle[-1].reply()).status == 200
        late = await stack.enter_async_context(raw.connect(site.port))
        await late.send(raw.get("/healthz"))
        assert (await late.reply()).status == 200
        assert [await one.ended() for one in idle[:2]] == [b"", b""]
        for one in (*idle[2:], late):  # the younger ones are as they were
            await one.send(raw.get("/healthz"))
            assert (await one.reply()).status == 200
        for delta in said("two"):
            site.desk.answers[0].queue.put_nowait(delta)
        await busy.until(b"[DONE]\n\n\r\n0\r\n\r\n")


async def test_where_all_are_at_work_the_newcomer_is_sent_away(site: Site) -> None:
    site.listeners.most = 3
    site.desk.hold = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(raw.connect(site.port)) for _ in range(3)]
        for one in busy:
            await one.send(raw.post(CHAT, BODY))
        await eventually(lambda: len(site.desk.asked) == 3)
        newcomer = await stack.enter_async_context(raw.connect(site.port))
        with contextlib.suppress(ConnectionError):
            assert await newcomer.ended() == b""
        site.desk.hold.set()
        assert [(await one.reply()).status for one in busy] == [200] * 3


@pytest.mark.parametrize(("soft", "most"), [(-1, 4096), (1_000_000, 4096), (1024, 768), (256, 16)])
async def test_the_limit_leaves_files_for_everything_else(
    monkeypatch: pytest.MonkeyPatch, soft: int, most: int
) -> None:
    limit = resource.RLIM_INFINITY if soft < 0 else soft
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert patience.most_connections() == most


async def test_five_hundred_clients_that_vanish_leave_nothing_behind(site: Site) -> None:
    for _ in range(25):
        async with contextlib.AsyncExitStack() as stack:
            lines = [await stack.enter_async_context(raw.connect(site.port)) for _ in range(20)]
            for number, line in enumerate(lines):
                await line.send((raw.get("/status"), raw.post(CHAT, STREAM), b"POST ")[number % 3])
            for line in lines:
                line.cut()
    await eventually(lambda: held(site) == [])
    await eventually(lambda: all(answer.cancelled.is_set() for answer in site.desk.answers))
    assert await served(site)
