"""Server-Sent Events: the hot path of the server.

The first bytes of a stream go through Sanic, which writes the head. After that each event is one
`transport.write` of one HTTP chunk: no coroutine, no copy that is not needed. Back-pressure stays: a
writer waits while the connection holds more than `HIGH` unsent bytes, and a reader that takes nothing
for `STALL_S` is cut off, because it holds a row that others wait for.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from sanic.headers import format_http1_response
from sanic.http import Stage
from sanic.request import Request

from appliance.errors import ApiError
from appliance.server.connection import http_of, protocol_of, transport_of
from appliance.server.replies import encode

HIGH = 65_536  # bytes; Sanic pauses its own writers at the same mark
STALL_S = 60.0
KEEP_ALIVE_S = 5.0
KEEP_ALIVE = b": keep-alive\n\n"
CONTENT_TYPE = "text/event-stream; charset=utf-8"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStream:
    """One response of `text/event-stream`.

    `start` sends the head, `write` and `drain` send events, `finish` ends the response. Whoever goes
    away early, client or server, ends the task that runs the handler by cancelling it.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._http = http_of(request)
        self._transport = transport_of(request)
        self._protocol = protocol_of(request)
        self._chunked = request.version != "1.0"
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._writes = 0
        self._seen = 0
        self._quiet = 0
        self._response: Any = None

    async def start(self, first: bytes) -> None:
        """Send status 200 and the first bytes, which may not be empty, in one write."""
        request = self._request
        self._response = await request.respond(
            headers=HEADERS, content_type="text/event-stream; charset=utf-8"
        )
        if self._chunked:
            await self._response.send(first)
        else:  # HTTP/1.0 knows no chunks: the end of the connection ends the stream
            self._http.keep_alive = False
            self._response.headers["connection"] = "close"
            await self._send(format_http1_response(200, self._response.processed_headers) + first)
            self._http.response_func = None  # type: ignore[assignment]
            self._http.stage = Stage.RESPONSE
        self._schedule()

    def write(self, data: bytes) -> bool:
        """Send now. True: too much is unsent, and the caller must `await drain()` before the next."""
        transport = self._transport
        if transport.is_closing():
            raise asyncio.CancelledError("the client has gone")
        self._writes += 1
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return transport.get_write_buffer_size() > HIGH

    async def drain(self) -> None:
        """Return when the reader has caught up. Cuts off one that does not."""
        try:
            async with asyncio.timeout(STALL_S):
                await self._send(b"")
        except TimeoutError:
            self._transport.abort()
            raise asyncio.CancelledError("the client reads nothing") from None

    async def finish(self, last: bytes) -> None:
        """Send the last events and end the response, in one write."""
        self.stop()
        if self._transport.is_closing():
            raise asyncio.CancelledError("the client has gone")
        if self._transport.get_write_buffer_size() > HIGH:
            await self.drain()
        if self._chunked:
            await self._response.send(last, end_stream=True)
        else:
            await self._send(last)
            self._http.stage = Stage.IDLE

    async def fail(self, error: ApiError) -> None:
        """End a stream that has begun: an error event, and no [DONE]."""
        await self.finish(b"data: %b\n\n" % encode(error.body()))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        """Twice per KEEP_ALIVE_S: a comment where nothing was written in two ticks."""
        self._quiet = self._quiet + 1 if self._writes == self._seen else 0
        if self._quiet == 2 and not self._transport.is_closing():
            self._quiet = 0
            if self._transport.get_write_buffer_size() == 0:
                self.write(KEEP_ALIVE)
        self._seen = self._writes
        self._schedule()

    def _schedule(self) -> None:
        self._timer = self._loop.call_later(KEEP_ALIVE_S / 2, self._tick)

    async def _send(self, data: bytes) -> None:
        """Sanic's own way out: waits while its writers are paused."""
        await self._protocol.send(data)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> EventStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
