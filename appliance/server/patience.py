"""Clients that hold a connection without getting on with it: how long they may, and who goes first.

A head that comes a byte at a time, or a body slower than any real line, would hold a connection for as
long as its sender likes; so would a client that asks and never reads. Once a second all connections are
looked at; those that are too slow are told so and closed. Idle ones are welcome until there are too many:
then the idlest make room for new ones.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sanic.http import Stage

from appliance.errors import ApiError

HEAD_S = 10.0  # from the first byte of a request to the end of its head
BODY_S = 10.0  # a body is judged each time so much has passed ...
BODY_RATE = 1024  # ... and must have come at this many bytes per second
READ_S = 60.0  # for which answers may lie unread, more than a connection holds
MOST = 4096  # connections; an idle one takes some 8 KiB
RESERVED = 256  # files and sockets kept for engines, state and logs
BATCH = 32  # idle connections that go at once: finding them means sorting all


@dataclass
class _Mark:
    """Since when a connection is at one stage of one request. received: bytes of its body by then."""

    number: int
    part: str
    since: float
    received: int = 0


class Patience:
    def __init__(self) -> None:
        self._marks: dict[Any, _Mark] = {}

    def look(self, connections: Iterable[Any], now: float | None = None) -> None:
        """Judge every connection; close those that are too slow. now: for tests."""
        now = time.monotonic() if now is None else now
        before, self._marks = self._marks, {}
        for connection in connections:
            http = connection.http
            if http is None or connection.transport is None or connection.transport.is_closing():
                continue
            part = _part(connection, http)
            if part is None:
                continue
            mark = before.get(connection)
            number = connection.state["requests_count"]
            if mark is None or (mark.number, mark.part) != (number, part):
                mark = _Mark(number, part, now, _received(http) if part == "body" else 0)
            elif part == "head" and now - mark.since >= HEAD_S:
                _end(connection, f"the head of the request did not come within {HEAD_S:g} s")
                continue
            elif part == "body" and now - mark.since >= BODY_S:
                received = _received(http)
                if received - mark.received < BODY_RATE * (now - mark.since):
                    _end(connection, f"the body came at less than {BODY_RATE} bytes a second")
                    continue
                mark = _Mark(number, part, now, received)
            elif part == "answer" and now - mark.since >= READ_S:
                connection.transport.abort()
                continue
            self._marks[connection] = mark


def _part(connection: Any, http: Any) -> str | None:
    """What the server waits for from this client; None: for nothing, or for a first byte."""
    if not connection._can_write.is_set():
        return "answer"
    if http.stage is Stage.REQUEST:
        return "head"
    if http.request_body and not connection._data_received.is_set():
        return "body"
    return None


def _received(http: Any) -> int:
    return int(http.request_bytes or 0) - int(http.request_bytes_left or 0) + len(http.recv_buffer)


def _end(connection: Any, why: str) -> None:
    """As Sanic ends a request whose time is up: with an answer, where none has begun."""
    connection.http.exception = ApiError("invalid_request", why)
    connection.http.keep_alive = False
    connection.http.request_body = None  # the rest is not waited for
    if connection._task is not None:
        connection._task.cancel()


def most_connections() -> int:
    """How many this process may hold without running out of files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST
    return max(16, min(MOST, soft - RESERVED, soft * 3 // 4))


def make_room(connections: list[Any], newest: Any) -> None:
    """Close the idlest: those between two requests, else the newcomer itself."""
    idle = [one for one in connections if one is not newest and _idle(one)]
    if not idle:
        newest.close()
        return
    idle.sort(key=lambda one: float(one._time))
    for one in idle[:BATCH]:
        one.close()


def _idle(connection: Any) -> bool:
    return (
        connection.transport is not None
        and not connection.transport.is_closing()
        and (connection.http is None or connection.http.stage is Stage.IDLE)
        and not connection.recv_buffer
    )
