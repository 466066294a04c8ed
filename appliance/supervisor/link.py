"""The parent's end of the socket pair: an asyncio protocol that parses frames as they come.

Reading never stops: what the engine sends is bounded by what it decodes, and slow readers are dealt
with per request. Writing is bounded: above the high-water mark `writable` is False until the engine
has read, and the router lets requests wait meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from appliance import wire

HIGH_WATER = 1024 * 1024  # bytes written and not yet read by the engine


class Link(asyncio.Protocol):
    """on_message: every frame, in order. on_lost: once, with the reason when it was an error.
    on_writable: the engine has read what was over the high-water mark."""

    def __init__(
        self,
        on_message: Callable[[wire.FromEngine], None],
        on_lost: Callable[[Exception | None], None],
        on_writable: Callable[[], None],
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_writable = on_writable
        self._transport: asyncio.Transport | None = None
        self._rest = bytearray()  # the beginning of a frame whose end has not come yet
        self._need = 0  # bytes of that frame in all, as far as known
        self._error: Exception | None = None
        self.frames = 0
        self.writable = False
        self.lost = asyncio.Event()
        self.lost.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self.writable = True
        self.lost.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self.writable = False
        self._transport = None
        self.lost.set()
        self._on_lost(self._error or exc)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._on_writable()

    def data_received(self, data: bytes) -> None:
        buffer: bytes | bytearray = data
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return
            buffer = self._rest
        try:
            at = self._parse(buffer)
        except wire.WireError as error:
            self._error = error
            self.abort()
            return
        self._rest = bytearray(memoryview(buffer)[at:]) if at < len(buffer) else bytearray()

    def _parse(self, buffer: bytes | bytearray) -> int:
        """Hand on every whole frame; returns where the first unfinished one begins."""
        at, end, head = 0, len(buffer), wire.HEADER.size
        view = memoryview(buffer)
        while end - at >= head:
            (size,) = wire.HEADER.unpack_from(buffer, at)
            if size > wire.MAX_FRAME:
                raise wire.WireError(f"a frame of {size} bytes is over the limit of {wire.MAX_FRAME}")
            stop = at + head + size
            if stop > end:
                self._need = head + size
                return at
            self.frames += 1
            self._on_message(wire.decode_from_engine(view[at + head : stop]))
            at = stop
        self._need = head
        return at

    def send(self, frame: bytes) -> None:
        """Write one whole frame. Nothing happens when the engine is gone: `on_lost` says so."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def abort(self) -> None:
        self.writable = False
        if self._transport is not None:
            self._transport.abort()
