"""An appliance under the holder: what it is told and what it tells (`appliance.holder` has the words).

    standby ──go──▶ serving ──pause──▶ paused ──drain──▶ leaving
                       ▲                  │
                       └─────resume───────┘

The first one of a holder begins as `serving`. Without a holder there is no `Link`, and none of this.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from appliance.holder.child import VARIABLE
from appliance.holder.lines import Closed, Lines, Malformed, Message

log = logging.getLogger("lmx.holder")

FIRST_WORD_S = 30.0  # for the holder's `start`

Orders = Callable[[Message], Awaitable[None]]


class HolderGone(Exception):
    """What `LMX_HOLDER` names is no holder that speaks."""


class Link:
    """Say what is to be said at any time; `listen` on the running loop, once."""

    def __init__(self, lines: Lines, start: Message, fds: Sequence[int]) -> None:
        self._lines = lines
        self.standby = start.get("role") == "standby"
        self.beside = int(start.get("beside") or 0)
        self.alone = bool(start.get("alone", True))
        self.predecessor: int | None = start.get("predecessor")
        self.last: Message | None = start.get("last")
        self.holder: Message | None = start.get("holder")
        self.sockets = _sockets(start.get("sockets") or [], list(fds))
        self._said: Message | None = None
        self._orders: asyncio.Queue[Message] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_gone: Callable[[], None] = lambda: None
        self._gone = False

    @classmethod
    def inherited(cls) -> Link | None:
        """None where no holder has started this process. Raises HolderGone."""
        number = os.environ.pop(VARIABLE, None)
        if number is None:
            return None
        try:
            sock = socket.socket(fileno=int(number))
            os.set_inheritable(sock.fileno(), False)
            lines = Lines(sock)
            until = time.monotonic() + FIRST_WORD_S
            found: list[tuple[Message, list[int]]] = []
            while not found:
                if not select.select([sock], [], [], max(0.0, until - time.monotonic()))[0]:
                    raise HolderGone(f"{VARIABLE}={number}: the holder says nothing")
                found = lines.read()
        except (OSError, ValueError, Closed, Malformed) as error:
            raise HolderGone(f"{VARIABLE}={number} is no connection to a holder: {error}") from error
        (start, fds), *more = found
        link = cls(lines, start, fds)
        for words, _ in more:
            link._orders.put_nowait(words)
        return link

    # --- saying ------------------------------------------------------------------------------------

    def say(self, what: str, fds: Sequence[int] = (), **more: Any) -> None:
        if self._gone:
            return
        try:
            self._lines.send({"say": what, **more}, fds)
        except Closed:
            return  # seen by the reader, which ends this process
        if self._lines.unsent and self._loop is not None:
            self._loop.add_writer(self._lines.sock.fileno(), self._flush)

    def say_state(self, **state: Any) -> None:
        """Only where it is another one than before."""
        if state != self._said:
            self._said = state
            self.say("state", **state)

    def _flush(self) -> None:
        try:
            self._lines.flush()
        except Closed:
            self._ended()
            return
        if not self._lines.unsent and self._loop is not None:
            self._loop.remove_writer(self._lines.sock.fileno())

    # --- hearing -----------------------------------------------------------------------------------

    async def listen(self, obey: Orders, on_gone: Callable[[], None]) -> None:
        """Each order in its turn, until cancelled. on_gone: the holder has ended."""
        self._loop, self._on_gone = asyncio.get_running_loop(), on_gone
        self._loop.add_reader(self._lines.sock.fileno(), self._read)
        while True:
            await obey(await self._orders.get())

    def _read(self) -> None:
        try:
            for words, fds in self._lines.read():
                for fd in fds:  # sockets come with `start` only
                    os.close(fd)
                self._orders.put_nowait(words)
        except (Closed, Malformed) as error:
            log.error("the holder is gone (%s): this appliance drains and ends", error)
            self._ended()

    def _ended(self) -> None:
        self._gone = True
        assert self._loop is not None
        self._loop.remove_reader(self._lines.sock.fileno())
        self._loop.remove_writer(self._lines.sock.fileno())
        self._on_gone()


def _sockets(said: list[Message], fds: list[int]) -> dict[tuple[str, int], list[socket.socket]]:
    """The public sockets that the holder has kept, by address."""
    out: dict[tuple[str, int], list[socket.socket]] = {}
    for one in said:
        count = int(one["count"])
        out[str(one["host"]), int(one["port"])] = [socket.socket(fileno=fd) for fd in fds[:count]]
        del fds[:count]
    return out
