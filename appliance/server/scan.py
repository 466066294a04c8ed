"""A look at a body before it is decoded: no key twice in one object, and not millions of values. Pure.

JSON leaves open what a key means that comes twice, and two readers of one request may then see two
requests. And the decoder makes every value before anything can be refused, in one go that nothing else gets
a turn in: 32 MiB of empty strings take it most of a second. This scan is plain Python, so that in a thread
of its own it lets the event loop work; it stops at the first thing that is too much. What is not JSON at
all it leaves to the decoder to explain.
"""

from __future__ import annotations

import msgspec

from appliance.errors import ApiError

MOST_STRINGS = 200_000  # keys and values; 20,000 messages have some 120,000
MOST_VALUES = 1_100_000  # numbers above all: a prompt may be a million token ids
MOST_CONTAINERS = 100_000
DEEPEST = 2000  # the decoder gives up before

OPEN, SHUT = b"{[", b"}]"
OTHER = bytes(set(range(256)) - set(OPEN + SHUT))  # all that does not open or close anything
BACKSLASH, COLON = ord("\\"), ord(":")
SPACE = b" \t\r\n"


def check(body: bytes) -> None:
    """Raises ApiError."""
    keys: list[set[bytes] | None] = []  # of each object that is open here; None: it is an array
    strings = values = containers = 0
    at = 0
    while True:
        quote = body.find(b'"', at)
        gap = body[at:] if quote < 0 else body[at:quote]
        values += gap.count(b",")
        for mark in gap.translate(None, OTHER):
            if mark in OPEN:
                keys.append(set() if mark == OPEN[0] else None)
                containers += 1
            elif keys:
                keys.pop()
            else:
                return
            if len(keys) > DEEPEST:
                return
        strings += 1
        if strings > MOST_STRINGS or values > MOST_VALUES or containers > MOST_CONTAINERS:
            raise ApiError("invalid_request", "the body holds too many values for one request; send fewer")
        close = -1 if quote < 0 else _end(body, quote + 1)
        if close < 0:
            return
        at = close + 1
        if keys and (seen := keys[-1]) is not None and _is_key(body, at):
            key = body[quote + 1 : close]
            if BACKSLASH in key:
                key = _plain(key)
            if key in seen:
                name = key.decode("utf-8", "replace")[:80]
                raise ApiError("invalid_request", f"{name} is given twice; give it once", param=name)
            seen.add(key)


def _end(body: bytes, start: int) -> int:
    """Where the string that began before `start` closes; -1: nowhere."""
    close = body.find(b'"', start)
    while close > 0:
        back = close - 1
        while back >= start and body[back] == BACKSLASH:
            back -= 1
        if (close - back) % 2:  # an even number of backslashes: the quote itself is not escaped
            return close
        close = body.find(b'"', close + 1)
    return -1


def _is_key(body: bytes, at: int) -> bool:
    while at < len(body) and body[at] in SPACE:
        at += 1
    return at < len(body) and body[at] == COLON


def _plain(key: bytes) -> bytes:
    """Without escapes: m\\u006fdel is model."""
    try:
        return msgspec.json.decode(b'"' + key + b'"', type=str).encode("utf-8", "surrogatepass")
    except msgspec.DecodeError:
        return key
