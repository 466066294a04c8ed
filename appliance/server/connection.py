"""Sanic's connection objects under their real types: it declares only what HTTP/3 shares with them."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Protocol, cast

from sanic.exceptions import BadRequest
from sanic.http import Http
from sanic.request import Request
from sanic.server.protocols.http_protocol import HttpProtocol

if TYPE_CHECKING:
    from appliance.access.limits import Charge

UNREAD = 64 * 1024  # bytes of a body that no handler asked for


_CHUNK = re.compile(rb"\r\n[0-9A-Fa-f]{1,16}[ \t]*(?:;[^\r\n]*)?\r\n")
_LONGEST_CHUNK_HEAD = 64  # bytes, as Sanic has it
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Strict(Http):
    """Sanic reads over what stands between two chunks, and `0x5` as a size. A proxy in front that reads it
    otherwise would end the body elsewhere, and take the rest of it for somebody else's request."""

    __slots__ = ()

    async def read(self) -> bytes | None:
        if self.expecting_continue:
            self.expecting_continue = False
            await self._send(_CONTINUE)
        kind: object = self.request_body  # True, "chunked", or None where all has been read
        if kind == "chunked" and not self.request_bytes_left:
            buffer = self.recv_buffer
            while (end := buffer.find(b"\r\n", 2)) < 0 and len(buffer) <= _LONGEST_CHUNK_HEAD:
                await self._receive_more()
            if end >= 0 and _CHUNK.match(buffer) is None:
                self.keep_alive = False
                raise BadRequest("Bad chunked encoding")
        return await super().read()


class Connection(HttpProtocol):
    """One client's connection. It tells the listeners that it has come: there is a limit to their number.

    tunnel: who gets what comes from now on, once the connection speaks another protocol than HTTP.
    """

    __slots__ = ("tunnel",)
    HTTP_CLASS = Strict

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.tunnel: Tunnel | None = None
        super().connection_made(transport)  # type: ignore[no-untyped-call]
        self.request_handler = self._handle
        self.app.ctx.listeners.arrived(self)

    def data_received(self, data: bytes) -> None:
        if self.tunnel is None:
            super().data_received(data)
        else:
            self.tunnel.received(data)

    def close_if_idle(self) -> bool:
        if self.tunnel is None:
            return bool(super().close_if_idle())
        self.tunnel.wind_down()
        return False

    async def _handle(self, request: Request) -> None:
        """One request, to the end of its answer."""
        # Handlers that read bodies set a limit of their own. Where none does, Sanic would read it all
        # before anybody has looked at who calls.
        http = http_of(request)
        http.request_max_size = UNREAD
        try:
            await self.app.handle_request(request)
        finally:
            # What is left is read and thrown away, so that the client gets to see the answer.
            http.request_max_size = max(http.request_max_size, self.request_max_size)
            charge: Charge | None = getattr(request.ctx, "charge", None)
            if charge is not None:
                charge.close()


class Tunnel(Protocol):
    def received(self, data: bytes) -> None: ...

    def wind_down(self) -> None:
        """The listener closes: take nothing new, and go when what runs has ended."""


def http_of(request: Request) -> Http:
    """The state of this request and response on its connection."""
    return cast(Http, request.stream)


def protocol_of(request: Request) -> HttpProtocol:
    protocol: HttpProtocol = http_of(request).protocol
    return protocol


def transport_of(request: Request) -> asyncio.Transport:
    return cast(asyncio.Transport, request.transport)
