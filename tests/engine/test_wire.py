"""Whatever bytes come, reading a frame gives a message or a WireError."""

from __future__ import annotations

import random

import pytest

from appliance import wire

FRAMES: list[wire.ToEngine | wire.FromEngine] = [
    wire.Beat("decode", 0.5, 17, rows=3, waiting=2, busy_s=1.5, reserved_bytes=2**33),
    wire.Step([wire.Row(1, "Größe 🙂", 5, "stop")]),
    wire.Progress(5, 7),
    wire.Configure(context=512, memory=2**34, workspace=2**28, buffer_cache=0, wired=2**34),
]


def test_half_a_frame_and_the_next_are_no_message() -> None:
    """As found: the text of a tag that ends in another frame's length is not even text."""
    with pytest.raises(wire.WireError):
        wire.decode_from_engine(b"\x83\xa1t\xa8progre\x8f\x00\x00\x00\x8a\xa1t\xa4beat\xa5st")


def test_damaged_frames_raise_nothing_else() -> None:
    chance = random.Random(7)
    wrong = 0
    for _ in range(4000):
        body = bytearray(wire.encode(chance.choice(FRAMES))[wire.HEADER.size :])
        for _ in range(chance.randrange(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        for decode in (wire.decode_from_engine, wire.decode_to_engine):
            try:
                decode(bytes(body[: chance.randrange(len(body) + 1)] if chance.random() < 0.3 else body))
            except wire.WireError:
                wrong += 1
    assert wrong > 4000
