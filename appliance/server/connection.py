"""Sanic's connection objects under their real types: it declares only what HTTP/3 shares with them."""

from __future__ import annotations

import asyncio
from typing import cast

from sanic.http import Http
from sanic.request import Request
from sanic.server.protocols.http_protocol import HttpProtocol


class Connection(HttpProtocol):
    """One client's connection. It tells the listeners that it has come: there is a limit to their number."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[no-untyped-call]
        self.app.ctx.listeners.arrived(self)


def http_of(request: Request) -> Http:
    """The state of this request and response on its connection."""
    return cast(Http, request.stream)


def protocol_of(request: Request) -> HttpProtocol:
    protocol: HttpProtocol = http_of(request).protocol
    return protocol


def transport_of(request: Request) -> asyncio.Transport:
    return cast(asyncio.Transport, request.transport)
