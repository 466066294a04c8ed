"""The real server and the real dashboard over a made-up appliance, whose every second is ours to make.

    tick(n) ─▶ Dashboard.sampled ─▶ Live ─▶ /admin/events?view=page ─▶ browser

It runs in a thread with an event loop of its own, as the browser has this one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.access.desk import Access
from appliance.dashboard.desk import Dashboard
from appliance.server.app import Listeners, build
from reconciler.gate import Gate
from tests.dashboard.test_view import NOW, document
from tests.server.stand import Board, Desk


class _Board(Board):
    """A control whose page is the real one."""

    dashboard: Dashboard

    def page(self) -> tuple[bytes, str]:
        return self.dashboard.live.page()

    def page_changes(self) -> AsyncIterator[bytes]:
        return self.dashboard.live.follow()


class Site:
    """status: what /status would say. now: the wall clock of it all, seconds."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.status: dict[str, Any] = document()
        self.now = NOW
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._listeners: Listeners
        gate = Gate(_nothing, _nothing, lambda: self.now, lambda *_: None, accepted=None, generation=3)
        self.board = _Board(Desk())
        self.board.access = Access(Path("/nowhere"), environ)
        self.board.dashboard = self.dashboard = Dashboard(
            lambda: self.status, lambda: gate, lambda: None, wall=lambda: self.now
        )

    def run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    @property
    def home(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def open(self) -> None:
        async def begin() -> None:
            self._listeners = build(self.board).ctx.listeners
            self.port = await self._listeners.open("127.0.0.1", self.port)

        self._wait(begin())

    def close(self) -> None:
        self._wait(self._listeners.close_all(grace=1))

    def restart(self) -> None:
        """What a reader sees of an upgrade: the stream ends, and the same address answers again."""
        self.close()
        self.open()

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        """In the server's thread."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def seconds(self, count: int, change: Callable[[int], None] = lambda _: None) -> None:
        """So many seconds go by at once. change: of the status, before each."""

        async def go() -> None:
            for number in range(count):
                self.now += 1
                change(number)
                self.dashboard.sampled(self.status["traffic"], self.status["memory"])
                await asyncio.sleep(0)

        self._wait(go())


def _nothing(*_: Any) -> Any:
    raise AssertionError("nothing reads a file here")


@contextmanager
def site(environ: dict[str, str] | None = None) -> Iterator[Site]:
    """environ: where API keys may be."""
    made = Site(environ or {})
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    made.open()
    try:
        yield made
    finally:
        made.close()
        made.end()
        thread.join(30)
