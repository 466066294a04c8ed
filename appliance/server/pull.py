"""POST /admin/models/pull: a download as Server-Sent Events.

    event: progress
    data: {"model": "daily", "state": "downloading", "done": 100, "total": 1234, "rate": 5.0, "eta": 227, ...}

    event: done
    data: {"model": "daily", "state": "done", ...}

What is refused before a byte has come is an answer with its own status; later it is `event: error`, and the
stream ends. A client that leaves stops a download that nobody else wants; the next one goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sanic.request import Request

from appliance.errors import ApiError
from appliance.server.events import frame
from appliance.server.listeners import Listeners
from appliance.server.replies import as_api_error
from appliance.server.sse import EventStream

# A refusal is worth waiting for, as a status says more than an event; a client that hears nothing gives up.
NEWS_S = 5.0

Updates = AsyncIterator[dict[str, Any]]


async def follow(request: Request, updates: Updates, listeners: Listeners) -> None:
    """Until the download ends, the client leaves or its listener closes. Raises ApiError before the head."""
    async with EventStream(request) as stream:
        teller = _Teller(stream)
        pump = asyncio.ensure_future(teller.tell(updates))
        closing = asyncio.ensure_future(listeners.closing(request))
        try:
            await asyncio.wait({pump, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (pump, closing):
                task.cancel()
            await asyncio.wait({pump, closing})
        error = None if pump.cancelled() else pump.exception()
        if pump.cancelled():
            error = ApiError("overloaded", "this listener closes; pull again to go on", retry_after=1.0)
        if error is not None and not teller.begun:
            raise error
        if error is not None:
            told = as_api_error(request, error)
            await stream.finish(frame({"type": "error", **told.body()}))
        else:
            await stream.finish(b": end\n\n")


class _Teller:
    """begun: the head is out, so that errors are events."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self.begun = False

    async def tell(self, updates: Updates) -> None:
        coming: asyncio.Future[dict[str, Any]] = asyncio.ensure_future(anext(updates))
        try:
            while True:
                await asyncio.wait({coming}, timeout=None if self.begun else NEWS_S)
                if not coming.done():
                    await self._write(b": asking the Hub\n\n")
                    continue
                update = coming.result()
                if self.begun or update["total"] or update["message"] or update["state"] == "done":
                    kind = "done" if update["state"] == "done" else "progress"
                    await self._write(frame({"type": kind, **update}))
                coming = asyncio.ensure_future(anext(updates))
        except StopAsyncIteration:
            return
        finally:
            # A generator that is cancelled where it waits lets go of its download at once.
            coming.cancel()
            await asyncio.wait({coming})

    async def _write(self, data: bytes) -> None:
        if not self.begun:
            self.begun = True
            await self._stream.start(data)
        elif self._stream.write(data):
            await self._stream.drain()
