"""/v1/ws: what is said, who may say it, and what no well-behaved client would send."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from appliance.access.desk import Access
from appliance.errors import ApiError
from appliance.server import patience
from appliance.server.ws import session, socket
from appliance.supervisor.generation import Delta
from tests.server import raw
from tests.server.conftest import BOTH_LOOPS, Site
from tests.server.stand import Answer, said
from tests.server.talk import HANDSHAKE, HELLO, by_hand, closed, frame, server_frame, talk
from tests.server.test_keys import ADMIN, PLAIN, TIGHT, keyed
from tests.server.waiting import eventually, soon

pytestmark = pytest.mark.anyio

__all__ = ["keyed"]


def endless() -> Answer:
    return Answer([Delta("a", 1)])


# --- what is said -----------------------------------------------------------------------------------


@BOTH_LOOPS
async def test_a_chat_comes_in_chunks_with_its_id(site: Site) -> None:
    async with talk(site.port) as line:
        await line.chat("first, of mine: \u00e4\u2028", stream_options={"include_usage": True})
        done = await line.until("first, of mine: \u00e4\u2028", "done")
        *chunks, last = line.read[done["id"]]
        assert last == done
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert line.text(done["id"]) == "Hello there"
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
        assert chunks[-1]["usage"]["total_tokens"] == 8
        await line.chat(done["id"])  # an id may be used again
        await line.until(done["id"], "done")
    assert [caller.path for caller in site.desk.callers] == ["/v1/ws"] * 2
    first, second = (caller.request_id for caller in site.desk.callers)
    assert first != second
    assert first.partition("/")[0] == second.partition("/")[0]


async def test_chats_run_beside_each_other_and_one_is_cancelled(site: Site) -> None:
    site.desk.answer = lambda number: endless() if number % 2 else Answer(said("b"))
    async with talk(site.port) as line:
        for number in range(40):
            await line.chat(f"c{number}", n=1)
        await line.all_done([f"c{number}" for number in range(0, 40, 2)])
        await line.say({"type": "cancel", "id": "c7"})
        assert (await line.until("c7", "cancelled"))["found"] is True
        await soon(site.desk.answers[7].cancelled)
        assert not site.desk.answers[9].cancelled.is_set()
        await line.say({"type": "cancel", "id": "c7"})
        assert (await line.until("c7", "cancelled"))["found"] is False
        await line.chat("c7")
    await asyncio.gather(*(soon(answer.cancelled) for answer in site.desk.answers))


async def test_what_waits_in_the_queue_is_cancelled_too(site: Site) -> None:
    site.desk.hold = asyncio.Event()
    async with talk(site.port) as line:
        await line.chat("a")
        await eventually(lambda: len(site.desk.asked) == 1)
        await line.say({"type": "cancel", "id": "a"})
        await line.until("a", "cancelled")
        await soon(site.desk.abandoned)


async def test_a_cancel_right_behind_its_chat_leaves_nothing(site: Site) -> None:
    site.desk.answer = lambda _: endless()
    async with talk(site.port) as line:
        for _ in range(20):
            await line.chat("a")
            await line.say({"type": "cancel", "id": "a"})
            assert (await line.until("a", "cancelled"))["found"] is True
    assert all(answer.cancelled.is_set() for answer in site.desk.answers)


@pytest.mark.parametrize("how", ["close", "cut"])
async def test_the_end_of_the_connection_ends_all_its_chats(site: Site, how: str) -> None:
    site.desk.answer = lambda _: endless()
    async with by_hand(site.port) as line:
        for number in range(8):
            await line.send(frame(json.dumps({"id": f"{number}", **HELLO}).encode()))
        await eventually(lambda: len(site.desk.answers) == 8)
        if how == "cut":
            line.cut()
        else:
            await line.send(frame(b"\x03\xe8", 8))
            assert await closed(line) == 1000
        await asyncio.gather(*(soon(answer.cancelled) for answer in site.desk.answers))


async def test_pings_of_both_kinds_are_answered(site: Site) -> None:
    async with talk(site.port) as line:
        await line.say({"type": "ping"})
        assert await line.next() == {"type": "pong"}
        async with asyncio.timeout(5):
            await (await line.socket.ping())


REFUSED: list[tuple[Any, str | None, str | None, str]] = [
    ("", None, None, "is empty"),
    ("no", None, None, "not valid JSON"),
    ('{"id": "a"', None, None, "not valid JSON"),
    ("[]", None, None, "an object"),
    ("null", None, None, "an object"),
    (b"\x00\x01", None, None, "binary frame"),
    ('{"id": "a"} {"id": "b"}', None, None, "not valid JSON"),
    ("[" * 100_000, None, None, "nested too deeply"),
    ({**HELLO}, None, "id", "is missing"),
    ({"id": None, **HELLO}, None, "id", "is missing"),
    ({"id": 7, **HELLO}, None, "id", "must be a string"),
    ({"id": "x" * 513, **HELLO}, None, "id", "more than 512"),
    ({"type": "cancel", "id": "x" * 600_000}, None, "id", "more than 512"),
    ({"id": "a", "type": 1, **HELLO}, None, "type", "must be a string"),
    ({"id": "a", "type": "embed", **HELLO}, "a", "type", "known are chat, cancel and ping"),
    ({"type": "cancel"}, None, "id", "id"),
    ({"type": "cancel", "id": "a", "why": 1}, "a", "why", "why"),
    ({"type": "ping", "id": "a"}, "a", "id", "id"),
    ({"id": "a"}, "a", "messages", "messages"),
    ({"id": "a", "messages": []}, "a", "messages", "messages"),
    ({"id": "a", **HELLO, "temperature": 9}, "a", "temperature", "temperature"),
    ({"id": "a", **HELLO, "temprature": 1}, "a", "temprature", "temperature"),
    ({"id": "a", **HELLO, "stream": False}, "a", "stream", "always streamed"),
]


@pytest.mark.parametrize(
    ("message", "id", "param", "words"), REFUSED, ids=[str(i) for i in range(len(REFUSED))]
)
async def test_a_message_that_is_none_is_told_so_and_the_next_one_is_served(
    site: Site, message: Any, id: str | None, param: str | None, words: str
) -> None:
    async with talk(site.port) as line:
        await line.say(message)
        answer = await line.next()
        assert (answer["type"], answer["id"], answer["status"]) == ("error", id, 400)
        assert answer["error"]["code"] in (
            "invalid_request",
            "not_supported",
        )  # unknown fields
        assert answer["error"]["param"] == param
        assert words in answer["error"]["message"]
        await line.chat("next", stream=True)
        await line.until("next", "done")
    assert [code for _, code in site.desk.noted] == [answer["error"]["code"]]


async def test_an_id_that_runs_is_not_taken_twice_and_goes_on(site: Site) -> None:
    answer = endless()
    site.desk.answer = lambda _: answer
    async with talk(site.port) as line:
        await line.chat("a")
        await line.next()
        await line.chat("a")
        refused = await line.until(None, "error")  # under no id: the chat of that id has not ended
        assert "running already" in refused["error"]["message"]
        assert len(site.desk.asked) == 1
        answer.queue.put_nowait(Delta("b", 2, "stop"))
        await line.until("a", "done")
        assert line.text("a") == "ab"


async def test_what_the_router_refuses_is_told_under_the_id(site: Site) -> None:
    async with talk(site.port) as line:
        await line.chat("a", model="../../etc/passwd")
        answer = await line.until("a", "error")
        assert (answer["status"], answer["error"]["code"]) == (404, "model_not_found")
        site.desk.full = ApiError("overloaded", "full", retry_after=2.5)
        await line.chat("a")
        answer = await line.until("a", "error")
        assert (answer["status"], answer["retry_after"]) == (503, 3)
        site.desk.full = None
        site.desk.answer = lambda _: Answer([Delta("half", 1), ApiError("engine_failed", "gone")])
        await line.chat("a")
        answer = await line.until("a", "error")
        assert answer["error"]["code"] == "engine_failed"
        assert line.text("a") == "half"
        assert "done" not in {message.get("type") for message in line.read["a"]}


async def test_an_unforeseen_failure_is_told_without_its_inside(site: Site) -> None:
    def broken(_: int) -> Answer:
        raise RuntimeError("secret inside")

    site.desk.answer = broken
    async with talk(site.port) as line:
        await line.chat("a")
        answer = await line.until("a", "error")
        assert (answer["status"], answer["error"]["code"]) == (500, "internal_error")
        assert "secret" not in json.dumps(answer)
        await line.say({"type": "ping"})
        await line.until(None, "pong")


async def test_several_choices_share_a_chat(site: Site) -> None:
    async with talk(site.port) as line:
        await line.chat("a", n=3)
        await line.until("a", "done")
        chunks = [chunk["choices"][0] for chunk in line.read["a"] if "choices" in chunk]
        finished = [choice["index"] for choice in chunks if choice["finish_reason"]]
        assert sorted(finished) == [0, 1, 2]


async def test_there_is_a_limit_to_the_chats_of_a_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MOST", 3)
    site.desk.answer = lambda _: endless()
    async with talk(site.port) as line:
        for id in "abcd":
            await line.chat(id)
        answer = await line.until("d", "error")
        assert (answer["status"], answer["error"]["code"]) == (429, "rate_limited")
        await line.say({"type": "cancel", "id": "a"})
        await line.until("a", "cancelled")
        await line.chat("d")
        await eventually(lambda: len(site.desk.answers) == 4)


# --- who may say it ---------------------------------------------------------------------------------


async def status_of(
    site: Site, *headers: str, path: str = "/v1/ws", hand: tuple[str, ...] = HANDSHAKE
) -> int:
    async with raw.connect(site.port) as line:
        await line.send(raw.get(path, *hand, *headers))
        return (await line.head())[0]


async def test_a_page_of_another_site_may_not_open_one(site: Site) -> None:
    """Browsers let any page open a WebSocket to any address, and send along what they know."""
    for origin in ("https://evil.example", "null", "http://localhost:9", "file://"):
        assert await status_of(site, f"Origin: {origin}") == 403
    assert await status_of(site, "Origin: http://localhost") == 101
    assert await status_of(site) == 101
    site.board.set(cors=["https://chat.example"])
    assert await status_of(site, "Origin: https://chat.example") == 101
    async with raw.connect(site.port) as line:
        await line.send(raw.get("/v1/ws", *HANDSHAKE, host="rebound.example"))
        assert (await line.head())[0] == 403


async def test_a_handshake_shows_the_key(keyed: Site) -> None:
    assert await status_of(keyed) == 401
    assert await status_of(keyed, "Authorization: Bearer sk-wrong-0123456789") == 401
    assert await status_of(keyed, f"Authorization: Bearer {PLAIN}") == 101
    assert await status_of(keyed, f"x-api-key: {PLAIN}") == 101
    assert await status_of(keyed, path=f"/v1/ws?key={PLAIN}") == 401
    assert await status_of(keyed, f"x-api-key: {PLAIN}", path=f"/v1/ws?key={PLAIN}") == 400


async def test_a_page_shows_its_key_as_a_protocol_and_never_gets_it_back(keyed: Site) -> None:
    async with talk(keyed.port, subprotocols=["lmx", f"lmx-key.{PLAIN}"]) as line:
        assert line.socket.subprotocol == "lmx"
        assert PLAIN not in str(line.socket.response)
        await line.chat("a")
        await line.until("a", "done")
        assert keyed.desk.callers[-1].key == f"hash of {PLAIN}"
        assert keyed.desk.callers[-1].name == "plain"
    with pytest.raises(InvalidStatus):
        async with talk(keyed.port, subprotocols=["lmx", "lmx-key.sk-wrong-0123456789"]):
            pass
    assert (
        await keyed.http.get("/status", headers={"sec-websocket-protocol": f"lmx-key.{PLAIN}"})
    ).status_code == 401


async def test_each_chat_counts_for_the_keys_limits(keyed: Site) -> None:
    """tight: three requests a minute, one at once."""
    first = endless()
    keyed.desk.answer = lambda number: first if number == 0 else Answer(said("b"))
    async with talk(keyed.port, additional_headers={"x-api-key": TIGHT}) as line:
        await line.chat("a")
        await line.next()
        await line.chat("b")
        refused = await line.until("b", "error")
        assert (refused["status"], refused["error"]["code"]) == (429, "rate_limited")
        assert "at once" in refused["error"]["message"]
        await line.say({"type": "cancel", "id": "a"})
        await line.until("a", "cancelled")
        for id in ("b", "c"):
            await line.chat(id)
            await line.until(id, "done")
        await line.chat("d")
        refused = await line.until("d", "error")
        assert "3 requests per minute" in refused["error"]["message"]
        assert 1 <= refused["retry_after"] <= 20
        await line.say({"id": "e", "messages": []})
        assert (await line.until("e", "error"))["status"] in (400, 429)
    assert keyed.board.access._allowances["tight"].running == 0


async def test_a_key_that_is_withdrawn_starts_nothing_new(keyed: Site, tmp_path: Path) -> None:
    running = endless()
    keyed.desk.answer = lambda _: running
    async with talk(keyed.port, additional_headers={"x-api-key": PLAIN}) as line:
        await line.chat("a")
        await line.next()
        file = tmp_path / "keys"
        file.write_text(f"plain: {{key: {ADMIN}}}")  # the same name, another key
        for _ in range(2):
            assert keyed.board.access.look(keyed.board.spec().server.api_keys) is None
        await line.chat("b")
        assert (await line.until("b", "error"))["error"]["code"] == "unauthorized"
        running.queue.put_nowait(Delta("!", 2, "stop"))
        await line.until("a", "done")


async def test_where_keys_come_to_be_needed_an_open_connection_starts_nothing_new(
    site: Site, tmp_path: Path
) -> None:
    async with talk(site.port) as line:
        site.board.access = Access(tmp_path, {"LMX_KEYS": PLAIN})
        site.board.set(api_keys={"env": "LMX_KEYS"})
        await line.chat("a")
        assert (await line.until("a", "error"))["error"]["code"] == "unauthorized"


# --- what no well-behaved client would send ----------------------------------------------------------


@pytest.mark.parametrize(
    "hand",
    [
        (),
        ("Connection: Upgrade", "Upgrade: h2c"),
        HANDSHAKE[:2],
        HANDSHAKE[:3],
        (*HANDSHAKE[:2], HANDSHAKE[3], "Sec-WebSocket-Version: 8"),
        (*HANDSHAKE[:3], "Sec-WebSocket-Key: short"),
        (*HANDSHAKE, HANDSHAKE[3]),
        (*HANDSHAKE[1:],),
        (*HANDSHAKE, "Content-Length: 5"),
    ],
    ids=["none", "h2c", "bare", "no key", "version", "short key", "two keys", "no connection", "body"],
)
async def test_what_is_no_handshake_is_a_bad_request(site: Site, hand: tuple[str, ...]) -> None:
    assert await status_of(site, hand=hand) == 400


async def test_other_methods_and_http_1_0_are_refused(site: Site) -> None:
    assert (await site.http.post("/v1/ws", json={})).status_code == 405
    async with raw.connect(site.port) as line:
        await line.send(raw.get("/v1/ws", *HANDSHAKE, version="1.0"))
        assert (await line.head())[0] == 400


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"{}", masked=False), 1002),
        (frame(b"", 3), 1002),
        (frame(b"x" * 126, 9), 1002),
        (frame(b"x", 9, fin=False), 1002),
        (frame(b"x", 0), 1002),
        (frame(b"x", fin=False) + frame(b"x"), 1002),
        (b"\xff" * 64, 1002),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1002),
        (frame(b"\x03", 8), 1002),
        (frame(b"", length=1 << 40), 1009),
        (frame(b"x" * 70_000), 1009),
        (frame(b"x" * 40_000, fin=False) + frame(b"x" * 40_000, 0), 1009),
    ],
    ids=[
        *("unmasked", "opcode", "long ping", "split ping", "stray part", "two at once", "noise", "http"),
        *("short close", "a terabyte", "large", "large in parts"),
    ],
)
async def test_frames_that_break_the_rules_end_the_connection(site: Site, data: bytes, code: int) -> None:
    site.board.set(max_body="64KiB")
    site.desk.answer = lambda _: endless()
    async with by_hand(site.port) as line:
        await line.send(frame(json.dumps({"id": "a", **HELLO}).encode()))
        await eventually(lambda: len(site.desk.answers) == 1)
        await line.send(data)
        assert await closed(line) == code
    await soon(site.desk.answers[0].cancelled)
    assert (await site.http.get("/healthz")).status_code == 200


async def test_text_that_is_none_is_an_error_of_that_message(site: Site) -> None:
    async with by_hand(site.port) as line:
        await line.send(frame(b'{"id": "\xff\xfe"}'))
        _, data = await server_frame(line)
        assert json.loads(data)["error"]["code"] == "invalid_request"


async def test_a_message_in_many_parts_with_pings_between_is_one(site: Site) -> None:
    body = json.dumps({"id": "a", **HELLO}).encode()
    parts = [frame(body[:1], fin=False)]
    for at in range(1, len(body)):
        parts += [frame(body[at : at + 1], 0, fin=False), frame(b"", 0, fin=False), frame(b"p", 9)]
    async with by_hand(site.port) as line:
        await line.send(b"".join(parts) + frame(b"", 0))
        pongs, texts = 0, 0
        while texts < 5:
            opcode, _ = await server_frame(line)
            pongs, texts = pongs + (opcode == 10), texts + (opcode == 1)
    assert pongs == len(body) - 1


async def test_what_comes_right_behind_the_handshake_is_read(site: Site) -> None:
    async with raw.connect(site.port) as line:
        await line.send(raw.get("/v1/ws", *HANDSHAKE) + frame(b'{"type": "ping"}'))
        assert (await line.head())[0] == 101
        assert await server_frame(line) == (1, b'{"type":"pong"}')


async def test_a_flood_of_messages_leaves_others_their_turn(site: Site) -> None:
    flood = frame(b'{"type": "ping"}') * 20_000
    async with by_hand(site.port) as line:
        sending = asyncio.ensure_future(line.send(flood))
        for _ in range(5):
            assert (await site.http.get("/healthz")).status_code == 200
        pongs = 0
        while pongs < 20_000:
            assert await server_frame(line) == (1, b'{"type":"pong"}')
            pongs += 1
        await sending


async def test_one_who_asks_and_does_not_read_is_not_read_either(site: Site) -> None:
    """Pongs fill its line; then its further messages stay in its own buffers."""
    async with by_hand(site.port) as line:
        line.reader._transport.pause_reading()  # type: ignore[attr-defined]
        held = next(held for one in site.listeners._listeners for held in one.connections())
        # Each is answered with more than it has: an id is told in its error.
        message = frame(json.dumps({"type": "x", "id": "x" * 500}).encode())
        sending = asyncio.ensure_future(line.send(message * 200_000))
        await eventually(lambda: not held._can_write.is_set() and held.tunnel._paused)
        assert len(held.tunnel._inbox) < 2 * 256 * 1024 + socket.INBOX
        assert held.transport.get_write_buffer_size() < 4 * 65_536
        for connection in (held,):  # and after a while it is cut off
            site.listeners._patience.look([connection], 0.0)
            site.listeners._patience.look([connection], patience.READ_S + 1)
        with pytest.raises(ConnectionError):
            await sending


async def test_a_reader_that_stands_still_is_not_written_to_without_end(site: Site) -> None:
    answers = [endless() for _ in range(4)]
    site.desk.answer = lambda number: answers[number]
    async with by_hand(site.port) as line:
        line.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(4):
            await line.send(frame(json.dumps({"id": f"{number}", **HELLO}).encode()))
        await eventually(lambda: len(site.desk.answers) == 4)
        held = next(held for one in site.listeners._listeners for held in one.connections())
        for answer in answers:
            for _ in range(4000):
                answer.queue.put_nowait(Delta("x" * 1000, 1))
        await eventually(lambda: not held._can_write.is_set())
        left = [answer.queue.qsize() for answer in answers]
        for _ in range(20):
            await asyncio.sleep(0)
        assert [answer.queue.qsize() for answer in answers] == left  # nobody reads on
        assert sum(left) > 12_000  # of 16,000
        assert held.transport.get_write_buffer_size() < 4 * 65_536
        assert [answer.bounded for answer in answers] == [True] * 4
        for answer in answers:  # as a generation does whose reader leaves too much unread
            while not answer.queue.empty():
                answer.queue.get_nowait()
            answer.queue.put_nowait(ApiError("overloaded", "client reads too slowly"))
        line.reader._transport.resume_reading()  # type: ignore[attr-defined]
        told = set()
        while len(told) < 4:
            _, data = await server_frame(line)
            message = json.loads(data)
            if message.get("type") == "error":
                assert message["error"]["code"] == "overloaded"
                told.add(message["id"])


# --- how it ends ------------------------------------------------------------------------------------


async def test_a_listener_that_closes_lets_chats_finish_and_says_goodbye(site: Site) -> None:
    answer = endless()
    site.desk.answer = lambda _: answer
    port = await site.listeners.open("127.0.0.1", 0)
    async with talk(port) as line, talk(port) as idle:
        await line.chat("a")
        await line.next()
        closing = asyncio.ensure_future(site.listeners.close("127.0.0.1", port, grace=20))
        with pytest.raises(ConnectionClosed) as gone:
            await idle.next()
        assert gone.value.rcvd is not None
        assert gone.value.rcvd.code == 1001
        await line.chat("b")
        refused = await line.until("b", "error")
        assert (refused["error"]["code"], refused["retry_after"]) == ("overloaded", 1)
        answer.queue.put_nowait(Delta("!", 2, "stop"))
        await line.until("a", "done")
        with pytest.raises(ConnectionClosed):
            await line.next()
        await closing


async def test_a_dead_line_and_an_unused_one_are_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "PULSE_S", 0.02)
    monkeypatch.setattr(session, "IDLE_S", 0.0)
    async with by_hand(site.port) as line:
        assert await closed_by_us(line) == 1000
    monkeypatch.setattr(session, "IDLE_S", 600.0)
    monkeypatch.setattr(socket, "DEAD_S", 0.2)
    async with talk(site.port) as alive, by_hand(site.port) as dead:
        opcode, _ = await server_frame(dead)
        assert opcode == 9  # it is asked, and does not answer
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            while True:
                await server_frame(dead)
        await alive.say({"type": "ping"})  # this one's client has answered all the while
        await alive.until(None, "pong")


async def closed_by_us(line: raw.Line) -> int:
    """The code of the server's close frame, answered as a client should."""
    while True:
        opcode, data = await server_frame(line)
        if opcode == 8:
            await line.send(frame(data[:2], 8))
            assert await line.ended() == b""
            return int.from_bytes(data[:2], "big")


async def test_one_who_does_not_answer_a_goodbye_is_cut_off(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "PULSE_S", 0.02)
    monkeypatch.setattr(session, "IDLE_S", 0.0)
    monkeypatch.setattr(socket, "CLOSE_S", 0.05)
    async with by_hand(site.port) as line:
        opcode = 0
        while opcode != 8:
            opcode, _ = await server_frame(line)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            while True:
                await server_frame(line)


async def test_a_hundred_connections_that_vanish_leave_nothing_behind(site: Site) -> None:
    site.desk.answer = lambda _: endless()
    before = len(asyncio.all_tasks())
    for _ in range(100):
        async with by_hand(site.port) as line:
            await line.send(frame(json.dumps({"id": "a", **HELLO}).encode()))
            line.cut()
    await eventually(lambda: len(asyncio.all_tasks()) <= before)
    assert all(answer.cancelled.is_set() for answer in site.desk.answers)
    assert sum(len(one.connections()) for one in site.listeners._listeners) <= 1
