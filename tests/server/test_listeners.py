"""Sockets that open and close while the server runs: nobody's request is lost."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import httpx
import pytest

from appliance.supervisor.generation import Delta
from reconciler.observed import ListenerObs
from tests.server import raw
from tests.server.conftest import BOTH_LOOPS, Site
from tests.server.stand import Answer, said
from tests.server.waiting import eventually

pytestmark = [pytest.mark.anyio, BOTH_LOOPS]
STREAM = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()


async def refused(port: int) -> bool:
    try:
        async with raw.connect(port):
            return False
    except ConnectionRefusedError:
        return True


async def until_refused(port: int) -> None:
    async with asyncio.timeout(5):
        while not await refused(port):  # noqa: ASYNC110 - only trying tells
            await asyncio.sleep(0.005)


async def test_a_second_listener_serves_beside_the_first(site: Site) -> None:
    port = await site.listeners.open("127.0.0.1", 0)
    assert port != site.port
    assert (await site.http.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
    assert (await site.http.get("/healthz")).status_code == 200


async def test_a_port_in_use_says_which_and_what_to_do(site: Site) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} on 127.0.0.1 is in use.*server.port"):
            await site.listeners.open("127.0.0.1", port)
        failed = [seen for seen in site.listeners.observed() if seen.state == "failed"]
        assert [(one.host, one.port) for one in failed] == [("127.0.0.1", port)]
    assert await site.listeners.open("127.0.0.1", port) == port
    assert ListenerObs("127.0.0.1", port, "open") in site.listeners.observed()
    assert (await site.http.get("/healthz")).status_code == 200


async def test_an_address_that_is_not_here_is_refused_in_words(site: Site) -> None:
    with pytest.raises(OSError, match=r"192\.0\.2\.1 is not an address of this machine"):
        await site.listeners.open("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "addresses"),
    [("localhost", ["127.0.0.1"]), ("0.0.0.0", ["127.0.0.1"]), ("::", ["127.0.0.1", "[::1]"])],
)
async def test_every_address_that_a_host_means_is_served(site: Site, host: str, addresses: list[str]) -> None:
    if host == "::" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    port = await site.listeners.open(host, 0)
    for address in addresses:
        assert (await site.http.get(f"http://{address}:{port}/healthz")).status_code == 200
    await site.listeners.close(host, port, grace=1, idle=0)
    assert len(site.listeners.observed()) == 1


async def test_a_stream_outlives_its_listener(site: Site) -> None:
    site.desk.answer = lambda _: Answer([Delta("one", 1)])
    async with raw.connect(site.port) as line:
        await line.send(raw.post("/v1/chat/completions", STREAM))
        await line.until(b"one")
        closing = asyncio.create_task(site.listeners.close("127.0.0.1", site.port, grace=10))
        await until_refused(site.port)
        assert site.listeners.observed()[0].state == "closing"
        for delta in said("two"):
            site.desk.answers[0].queue.put_nowait(delta)
        await line.until(b"two")
        await line.until(b"[DONE]\n\n\r\n0\r\n\r\n")
        # the connection was promised to live on, so one more request is served, and told to be the last
        await line.send(raw.get("/healthz"))
        reply = await line.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await line.ended() == b""
        await closing
    assert site.listeners.observed() == ()


async def test_a_request_that_waits_is_answered_after_its_listener_closed(site: Site) -> None:
    site.desk.hold = asyncio.Event()
    async with raw.connect(site.port) as line:
        await line.send(raw.post("/v1/chat/completions", STREAM.replace(b"true", b"false")))
        await eventually(lambda: bool(site.desk.asked))
        closing = asyncio.create_task(site.listeners.close("127.0.0.1", site.port, grace=10))
        await until_refused(site.port)
        site.desk.hold.set()
        reply = await line.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        await closing


async def test_a_kept_connection_is_asked_to_close_not_cut(site: Site) -> None:
    async with raw.connect(site.port) as line:
        await line.send(raw.get("/healthz"))
        assert (await line.reply()).headers["connection"] == "keep-alive"
        closing = asyncio.create_task(site.listeners.close("127.0.0.1", site.port, grace=10))
        await until_refused(site.port)
        await line.send(raw.get("/healthz"))
        assert (await line.reply()).headers["connection"] == "close"
        assert await line.ended() == b""
        await closing


async def test_a_silent_connection_is_closed_in_the_end(site: Site) -> None:
    async with raw.connect(site.port) as line:
        await line.send(raw.get("/healthz"))
        await line.reply()
        await site.listeners.close("127.0.0.1", site.port, grace=10, idle=0.05)
        assert await line.ended() == b""


async def test_after_the_grace_what_is_left_is_cut(site: Site) -> None:
    site.desk.answer = lambda _: Answer([Delta("one", 1)])
    async with raw.connect(site.port) as line:
        await line.send(raw.post("/v1/chat/completions", STREAM))
        await line.until(b"one")
        began = time.monotonic()
        await site.listeners.close("127.0.0.1", site.port, grace=0.2)
        assert time.monotonic() - began < 5
        async with asyncio.timeout(5):
            await site.desk.answers[0].cancelled.wait()


async def test_the_end_of_the_process_does_not_wait_for_idle_connections(site: Site) -> None:
    second = await site.listeners.open("127.0.0.1", 0)
    async with raw.connect(site.port) as line, raw.connect(second) as other:
        for one in (line, other):
            await one.send(raw.get("/healthz"))
            await one.reply()
        closing = asyncio.create_task(site.listeners.close("127.0.0.1", second, grace=60))
        await until_refused(second)
        await asyncio.wait_for(site.listeners.close_all(grace=60), 5)
        await asyncio.wait_for(closing, 5)
        assert await line.ended() == await other.ended() == b""
    assert site.listeners.observed() == ()


async def test_followers_of_events_are_let_go_when_their_listener_closes(site: Site) -> None:
    async with raw.connect(site.port) as line:
        await line.send(raw.get("/admin/events"))
        await line.until(b": events\n\n")
        await asyncio.wait_for(site.listeners.close("127.0.0.1", site.port, grace=60, idle=0), 5)
        assert b"0\r\n\r\n" in await line.ended()
    assert site.board.followers == 0


async def test_the_same_port_can_be_opened_again_at_once(site: Site) -> None:
    site.desk.answer = lambda _: Answer([Delta("one", 1)])
    async with raw.connect(site.port) as line:
        await line.send(raw.post("/v1/chat/completions", STREAM))
        await line.until(b"one")
        closing = asyncio.create_task(site.listeners.close("127.0.0.1", site.port, grace=10))
        await until_refused(site.port)
        assert await site.listeners.open("0.0.0.0", site.port) == site.port
        assert (await site.http.get("/healthz")).status_code == 200
        for delta in said("two"):
            site.desk.answers[0].queue.put_nowait(delta)
        await line.until(b"[DONE]\n\n\r\n0\r\n\r\n")
    await closing


async def test_clients_with_kept_connections_lose_nothing_while_the_port_moves(site: Site) -> None:
    """Each client follows the port like a user who edits the file would: the old one until it is refused."""
    port = [site.port]
    done = 0
    stop = False

    async def client() -> None:
        nonlocal done
        async with httpx.AsyncClient(verify=False, timeout=60) as http:
            while not stop:
                now = port[0]
                try:
                    reply = await http.get(f"http://127.0.0.1:{now}/healthz")
                except httpx.ConnectError:
                    assert now != port[0]  # only a connection to a closed port may be refused
                    continue
                assert reply.status_code == 200
                done += 1

    clients = [asyncio.create_task(client()) for _ in range(8)]
    closings = []
    for _ in range(5):
        enough = done + 50
        await eventually(lambda: done >= enough)  # noqa: B023 - awaited at once
        old = port[0]
        port[0] = await site.listeners.open("127.0.0.1", 0)
        closings.append(asyncio.create_task(site.listeners.close("127.0.0.1", old, grace=20)))
    stop = True
    await asyncio.gather(*clients, *closings)


async def test_who_comes_while_nobody_accepts_waits_and_is_answered_then(site: Site) -> None:
    async with raw.connect(site.port) as kept:
        await kept.send(raw.get("/healthz"))
        await kept.reply()
        await site.listeners.pause()
        async with raw.connect(site.port) as waits:
            await waits.send(raw.get("/healthz"))
            await kept.send(raw.get("/healthz"))  # connections that are there go on, and are kept
            assert (await kept.reply()).headers["connection"] == "keep-alive"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await waits.reader.read(1)
            await site.listeners.resume()
            assert (await waits.reply()).status == 200


async def test_a_silent_connection_is_served_until_the_end_of_a_hand_over(site: Site) -> None:
    """The sockets stay open, as where another process has them."""
    [(host, port, sockets)] = site.listeners.sockets()
    copies = [sock.dup() for sock in sockets]
    try:
        async with raw.connect(site.port) as silent, raw.connect(site.port) as talks:
            for line in (silent, talks):
                await line.send(raw.get("/healthz"))
                await line.reply()
            await site.listeners.pause()
            leaving = asyncio.create_task(site.listeners.hand_over(grace=10, idle=None))
            await eventually(lambda: site.listeners.handed_over)
            assert site.listeners.observed() == (ListenerObs(host, port, "open"),)
            await talks.send(raw.get("/healthz"))
            assert (await talks.reply()).headers["connection"] == "close"
            assert await talks.ended() == b""
            assert not leaving.done()
            await silent.send(raw.get("/healthz"))
            assert (await silent.reply()).headers["connection"] == "close"
            await asyncio.wait_for(leaving, 5)
        async with raw.connect(port):  # it waits for whoever has the copies
            pass
    finally:
        for sock in copies:
            sock.close()


async def test_an_address_that_was_kept_is_taken_and_not_bound_anew(site: Site) -> None:
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        kept.listen()
        kept.setblocking(False)
        port = kept.getsockname()[1]
        site.listeners.kept = {("127.0.0.1", port): [kept.dup()], ("127.0.0.1", 1): [kept.dup()]}
        site.listeners.waits = True
        assert await site.listeners.open("127.0.0.1", port) == port
        assert ListenerObs("127.0.0.1", port, "open") in site.listeners.observed()
        async with raw.connect(port) as waits:
            await waits.send(raw.get("/healthz"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await waits.reader.read(1)
            await site.listeners.accept()
            assert (await waits.reply()).status == 200
        assert site.listeners.kept == {}
