"""GET /admin/events: typed events and telemetry as Server-Sent Events, resumable by Last-Event-ID."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from sanic.request import Request

from appliance.errors import ApiError
from appliance.server.control import Control
from appliance.server.listeners import Listeners
from appliance.server.replies import as_api_error, encode
from appliance.server.sse import EventStream


async def follow(request: Request, control: Control, listeners: Listeners) -> None:
    """Until the client leaves or its listener closes: a stream without end must not hold that up."""
    after = _after(request)
    async with EventStream(request) as stream:
        await stream.start(b": events\n\n")
        pump = asyncio.ensure_future(_pump(stream, control, after))
        closing = asyncio.ensure_future(listeners.closing(request))
        try:
            await asyncio.wait({pump, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (pump, closing):
                task.cancel()
            await asyncio.wait({pump, closing})
        failed = None if pump.cancelled() else pump.exception()
        if failed is not None:
            await stream.fail(as_api_error(request, failed))
        else:
            await stream.finish(b": end\n\n")


async def _pump(stream: EventStream, control: Control, after: int | None) -> None:
    events = control.events(after)
    try:
        async for event in events:
            if stream.write(frame(event)):
                await stream.drain()
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()


def frame(event: dict[str, Any]) -> bytes:
    kind = str(event["type"]).encode()
    number = event.get("id")
    head = b"" if number is None else b"id: %d\n" % number
    return head + b"event: %b\ndata: %b\n\n" % (kind, encode(event))


def _after(request: Request) -> int | None:
    given = request.headers.getone("last-event-id", None) or request.args.get("after")
    if not given:
        return None
    if not given.isdecimal() or len(given) > 18:
        raise ApiError("invalid_request", "Last-Event-ID must be the id of an event", param="Last-Event-ID")
    return int(given)
