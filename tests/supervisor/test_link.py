"""Frames arrive in any pieces; what is no frame ends the connection."""

from __future__ import annotations

import asyncio

import pytest

from appliance import wire
from appliance.supervisor.link import Link


class Ears:
    def __init__(self) -> None:
        self.heard: list[wire.FromEngine] = []
        self.link = Link(self.heard.append, lambda error: None, lambda: None)


MESSAGES: list[wire.FromEngine] = [
    wire.Hello(7),
    wire.Step([wire.Row(1, "größe", 3), wire.Row(2, "", 4, "stop", None, "END")]),
    wire.Beat("decode", 0.25, 12, rows=2),
    wire.Step([]),
]
STREAM = b"".join(map(wire.encode, MESSAGES))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 64, len(STREAM)])
async def test_frames_are_whole_however_they_are_cut(size: int) -> None:
    ears = Ears()
    for at in range(0, len(STREAM), size):
        ears.link.data_received(STREAM[at : at + size])
    assert ears.heard == MESSAGES
    assert ears.link.frames == len(MESSAGES)


async def test_every_cut_in_two_gives_the_same_messages() -> None:
    for at in range(len(STREAM) + 1):
        ears = Ears()
        ears.link.data_received(STREAM[:at])
        ears.link.data_received(STREAM[at:])
        assert ears.heard == MESSAGES, at


@pytest.mark.parametrize(
    "junk",
    [
        wire.HEADER.pack(wire.MAX_FRAME + 1),
        wire.HEADER.pack(3) + b"\xff\xff\xff",
        wire.HEADER.pack(0),
        wire.encode(wire.Hello(1)) + wire.HEADER.pack(1) + b"\xc0",
        wire.HEADER.pack(8) + b"\x81\xa1t\xa4load",  # a message, but not one that an engine sends
    ],
)
async def test_what_is_no_message_ends_the_connection_with_a_reason(junk: bytes) -> None:
    import socket

    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        link = Link(lambda message: None, lost.set_result, lambda: None)
        await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
        assert link.writable
        theirs.sendall(junk)
        assert isinstance(await asyncio.wait_for(lost, 10), wire.WireError)
        assert not link.writable


async def test_an_engine_that_does_not_read_makes_the_link_unwritable_until_it_does() -> None:
    import socket

    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        again = asyncio.Event()
        link = Link(lambda message: None, lambda error: None, again.set)
        await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
        link.send(b"x" * 4_000_000)
        assert not link.writable
        loop = asyncio.get_running_loop()
        read = 0
        while read < 4_000_000:
            read += len(await asyncio.wait_for(loop.sock_recv(theirs, 1_000_000), 10))
        await asyncio.wait_for(again.wait(), 10)
        assert link.writable
        link.abort()
        await link.lost.wait()
