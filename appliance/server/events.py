"""GET /admin/events: typed events and telemetry as Server-Sent Events, resumable by Last-Event-ID.

With `?view=page` what the dashboard shows of them: `appliance.dashboard.live` has its frames.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from sanic.request import Request

from appliance.errors import ApiError
from appliance.server import query
from appliance.server.control import Control
from appliance.server.listeners import Listeners
from appliance.server.replies import as_api_error, encode
from appliance.server.sse import EventStream

VIEW = "view"
PAGE = "page"  # the one view there is
KEPT = 64  # frames; readers that keep up ask for the same few


async def follow(request: Request, control: Control, listeners: Listeners) -> None:
    """Until the client leaves or its listener closes: a stream without end must not hold that up."""
    frames = _page(request, control) or _events(control, _after(request))
    async with EventStream(request) as stream:
        await stream.start(b": events\n\n")
        pump = asyncio.ensure_future(_pump(stream, frames))
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


async def _pump(stream: EventStream, frames: AsyncIterator[bytes]) -> None:
    try:
        async for one in frames:
            if stream.write(one):
                await stream.drain()
    finally:
        if isinstance(frames, AsyncGenerator):
            await frames.aclose()


async def _events(control: Control, after: int | None) -> AsyncIterator[bytes]:
    events = control.events(after)
    try:
        async for event in events:
            yield frame(event)
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()


def _page(request: Request, control: Control) -> AsyncIterator[bytes] | None:
    wanted = query.given(request).get(VIEW)
    if wanted is None:
        return None
    if wanted != PAGE:
        raise ApiError("invalid_request", "view: the one view of the events is `page`", param=VIEW)
    return control.page_changes()


# Everybody is sent the same event, the very same object: it is encoded once. It is held beside its frame, so
# that no other can have its place in memory meanwhile.
_frames: OrderedDict[int, tuple[dict[str, Any], bytes]] = OrderedDict()


def frame(event: dict[str, Any]) -> bytes:
    """event: is not changed any more."""
    known = _frames.get(id(event))
    if known is not None:
        return known[1]
    kind = str(event["type"]).encode()
    number = event.get("id")
    head = b"" if number is None else b"id: %d\n" % number
    made = head + b"event: %b\ndata: %b\n\n" % (kind, encode(event))
    _frames[id(event)] = event, made
    if len(_frames) > KEPT:
        _frames.popitem(last=False)
    return made


def _after(request: Request) -> int | None:
    given = request.headers.getone("last-event-id", None) or query.given(request).get("after")
    if given is None:
        return None
    if not given.isdecimal() or len(given) > 18:
        raise ApiError("invalid_request", "Last-Event-ID must be the id of an event", param="Last-Event-ID")
    return int(given)
