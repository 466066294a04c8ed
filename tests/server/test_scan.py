"""Keys that come twice, and bodies of millions of values."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

import pytest

from appliance.errors import ApiError
from appliance.server import body, scan
from tests.server import raw
from tests.server.conftest import Site

CHAT = "/v1/chat/completions"
MESSAGES = '"messages": [{"role": "user", "content": "hi"}]'


def twice(text: str | bytes) -> str | None:
    """The key that is said to be given twice."""
    found: ApiError | None = None
    try:
        scan.check(text if isinstance(text, bytes) else text.encode())
    except ApiError as error:
        found = error
    if found is None:
        return None
    assert (found.code, found.status) == ("invalid_request", 400)
    assert "given twice" in found.message
    return found.param


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"a": 1, "a": 2}', "a"),
        ('{"a":1,"b":{"c":1},"a":2}', "a"),
        ('{"b": {"c": 1, "d": [1, {"e": 1}], "c": 2}}', "c"),
        ('[{"a": 1}, {"b": 1, "b": 1}]', "b"),
        ('{"model": "x", "m\\u006fdel": "y"}', "model"),
        ('{"a\\"b": 1, "a\\"b": 2}', 'a"b'),
        ('{"a" \n:\t1, "a"\r\n : 2}', "a"),
        ('{"": 1, "": 2}', ""),
        ('{"ключ": 1, "ключ": 2}', "ключ"),
    ],
)
def test_a_key_that_comes_twice_in_one_object_is_named(text: str, key: str) -> None:
    assert twice(text) == key


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"a": {"a": 1}}}',
        '[{"a": 1}, {"a": 1}]',
        '{"a": "b", "b": "a", "c": ["a", "a", "b"]}',
        '{"a": "\\"a\\": 1, {[", "b": "\\\\", "c": "\\\\\\"", "d": "}"}',
        '{"a\\\\": 1, "a": 2}',
        '["a", "a", "a"]',
        '"a"',
        "1",
        "",
        "}{",
        '{"a": ',
        '{"a": "no end',
        '{"a": "no end\\"',
        '{"\\ud800": 1, "\\x": 2}',
        "]]]]{{{{",
        "[" * 200_000,
    ],
)
def test_other_bodies_pass_and_what_is_no_json_is_left_to_the_decoder(text: str) -> None:
    assert twice(text) is None


def test_it_agrees_with_a_whole_parser_on_anything_it_is_given() -> None:
    draw = random.Random(5)

    def value(depth: int) -> str:
        kind = draw.randrange(6 if depth else 3)
        if kind < 3:
            return (json.dumps("".join(draw.choices('ab"\\{}[]:, ', k=3))), "12", "null")[kind]
        if kind < 5:
            pairs = [f"{json.dumps(draw.choice('abcdefgh'))}{draw.choice(': ')}" for _ in range(3)]
            return "{" + ", ".join(f"{pair[:3]} : {value(depth - 1)}" for pair in pairs) + "}"
        return "[" + ",".join(value(depth - 1) for _ in range(3)) + "]"

    seen = {True: 0, False: 0}
    for _ in range(3000):
        text = value(3)
        doubled: list[Any] = []

        def note(pairs: list[tuple[str, Any]], doubled: list[Any] = doubled) -> None:
            doubled.extend([pairs] if len(dict(pairs)) < len(pairs) else [])

        json.loads(text, object_pairs_hook=note)
        assert (twice(text) is not None) == bool(doubled), text
        seen[bool(doubled)] += 1
    assert min(seen.values()) > 100


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b'"",' * 300_000 + b'""]',
        b"[" + b"1," * 2_000_000 + b"1]",
        b"[" + b"[]," * 200_000 + b"[]]",
    ],
    ids=["strings", "numbers", "lists"],
)
def test_too_many_values_are_refused(text: bytes) -> None:
    with pytest.raises(ApiError, match="too many values"):
        scan.check(text)


def test_as_much_as_a_request_may_hold_passes() -> None:
    message = b'{"role":"user","content":[{"type":"text","text":"x"}]},'
    scan.check(b'{"messages":[' + message * 20_000 + b"{}]}")
    scan.check(b'{"prompt":[' + b"31999," * 999_999 + b"1]}")
    scan.check(b'{"prompt":"' + b"x" * 32_000_000 + b'"}')


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{" + MESSAGES + ', "temperature": 0, "temperature": 2}', "temperature"),
        ('{"messages": [{"role": "user", "content": "hi", "role": "system"}]}', "role"),
        ("{" + MESSAGES + ', "metadata": {"a": "1", "a": "2"}}', "a"),
    ],
)
@pytest.mark.parametrize("padding", [0, body.SMALL])
async def test_a_request_with_a_key_twice_is_refused_by_name(
    site: Site, text: str, key: str, padding: int
) -> None:
    async with raw.connect(site.port) as line:
        await line.send(raw.post(CHAT, text.encode() + b" " * padding))
        reply = await line.reply()
    assert (reply.status, reply.code, reply.json()["error"]["param"]) == (400, "invalid_request", key)
    assert site.desk.asked == []


@pytest.mark.anyio
async def test_a_huge_body_leaves_the_event_loop_its_turns(site: Site) -> None:
    """Turns are counted, not timed: while a million strings are looked through, the others go on."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    content = b'{"prompt":[' + b'"x",' * 190_000 + b'"' + b"x" * 20_000_000 + b'"]}'
    beside = asyncio.create_task(others())
    began = time.monotonic()
    async with raw.connect(site.port) as line:
        await line.send(raw.post("/v1/completions", content))
        reply = await line.reply()
    beside.cancel()
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert "prompts" in reply.json()["error"]["message"]
    assert turns > 100, time.monotonic() - began
