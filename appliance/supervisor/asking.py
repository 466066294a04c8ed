"""Questions to an engine that it answers by number: which named sessions it holds, and to drop some."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from appliance import wire


class Asking:
    """Futures by number. All on the event loop; each ends with an answer, or with the engine."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._open: dict[int, asyncio.Future[list[wire.Session]]] = {}
        self._number = 0

    def sessions(self) -> asyncio.Future[list[wire.Session]]:
        return self._ask(wire.ListSessions(self._next()))

    def drop(self, name: str | None) -> asyncio.Future[list[wire.Session]]:
        """name None: all of them."""
        return self._ask(wire.DropSession(self._next(), name))

    def answered(self, message: wire.Sessions) -> None:
        future = self._open.pop(message.number, None)
        if future is not None and not future.done():  # its asker may have gone
            future.set_result(message.sessions)

    def lose(self) -> None:
        """The engine is gone: nobody waits in vain."""
        while self._open:
            _, future = self._open.popitem()
            future.cancel()

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _ask(self, question: wire.ListSessions | wire.DropSession) -> asyncio.Future[list[wire.Session]]:
        future: asyncio.Future[list[wire.Session]] = asyncio.get_running_loop().create_future()
        self._open[question.number] = future
        future.add_done_callback(lambda _: self._open.pop(question.number, None))
        self._send(wire.encode(question))
        return future
