"""The sockets the server answers on: opened and closed while it runs.

A listener that closes takes no new connection from that moment. Its open connections live on: a
request that runs finishes, and one that still comes in on a kept-alive connection is answered with
`Connection: close`, so no client ever writes into a connection that is about to go. Connections that
stay silent for `IDLE_S` are closed, and after the grace all that is left is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from sanic import Sanic
from sanic.http import Http, Stage
from sanic.request import Request
from sanic.server.async_server import AsyncioServer

from appliance.server.connection import Connection, http_of, protocol_of
from appliance.server.patience import Patience, make_room, most_connections
from reconciler.observed import ListenerObs

BACKLOG = 1024
IDLE_S = 6.0  # the usual clients drop an idle connection after 5 s and never write into it afterwards
LOOK_S = 0.05
WATCH_S = 1.0  # between two looks at slow clients


@dataclass
class _Listener:
    host: str
    port: int
    servers: list[AsyncioServer]
    state: Literal["open", "closing"] = "open"
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def connections(self) -> list[Any]:
        return [connection for server in self.servers for connection in server.connections]

    def abort(self) -> None:
        for connection in self.connections():
            connection.abort()

    def holds(self, protocol: object) -> bool:
        return any(protocol in server.connections for server in self.servers)


class Listeners:
    """All listeners of one app, in the running event loop."""

    def __init__(self, app: Sanic[Any, Any]) -> None:
        self._app = app
        self._started = False
        self._listeners: list[_Listener] = []
        self._failed: dict[tuple[str, int], str] = {}
        self._patience = Patience()
        self._watch: asyncio.TimerHandle | None = None
        self.most = most_connections()

    async def open(self, host: str, port: int) -> int:
        """Listen, and return the port, which the system chose where 0 was asked.

        Raises OSError, with a message for people, where the address cannot be bound.
        """
        if self._find(host, port) is not None:
            return port
        try:
            sockets = await _bind(host, port)
        except OSError as error:
            self._failed[host, port] = error.strerror or str(error)
            raise
        self._failed.pop((host, port), None)
        if not self._started:  # routes are final from here on; once for the app, not once for each server
            self._started = True
            # Sanic takes signals that nobody listens to out of its own code: possible once in a process.
            self._app.config.TOUCHUP = not getattr(Http, "__touched__", False)
            await self._app._startup()  # type: ignore[no-untyped-call]
            self._look()
        servers = []
        for sock in sockets:
            server = await self._app.create_server(
                sock=sock, protocol=Connection, backlog=BACKLOG, return_asyncio_server=True
            )
            assert server is not None
            servers.append(server)
        port = sockets[0].getsockname()[1]
        self._listeners.append(_Listener(host, port, servers))
        return port

    async def close(self, host: str, port: int, grace: float, idle: float = IDLE_S) -> None:
        """Take nothing new from now on; return when the last connection is gone, after `grace` at most."""
        listener = self._find(host, port)
        if listener is None:
            self._failed.pop((host, port), None)
            return
        listener.state = "closing"
        # Two rounds of the event loop: what the system has already accepted for us must not be reset.
        for _ in range(2):
            await asyncio.sleep(0)
        for server in listener.servers:
            cast(asyncio.Server, server.server).close()
        for connection in listener.connections():
            # Where the head is not sent yet, it can still say `Connection: close`.
            if connection.http is not None and connection.http.stage in (Stage.REQUEST, Stage.HANDLER):
                connection.http.keep_alive = False
        listener.closing.set()
        try:
            await self._wind_down(listener, time.monotonic() + grace, idle)
        finally:
            listener.abort()
            self._listeners.remove(listener)

    async def close_all(self, grace: float) -> None:
        """The end of the process: idle connections go at once, also those of listeners that close already."""
        end = time.monotonic() + grace
        if self._watch is not None:
            self._watch.cancel()
        still = [listener for listener in self._listeners if listener.state == "open"]
        going = [listener for listener in self._listeners if listener.state == "closing"]
        await asyncio.gather(
            *(self.close(one.host, one.port, grace, idle=0.0) for one in still),
            *(self._wind_down(one, end, idle=0.0) for one in going),
        )
        for listener in going:  # the call that closes it sees that nothing is left
            listener.abort()
        Sanic.unregister_app(self._app)

    def observed(self) -> tuple[ListenerObs, ...]:
        up = [ListenerObs(one.host, one.port, one.state) for one in self._listeners]
        return (*up, *(ListenerObs(host, port, "failed", why) for (host, port), why in self._failed.items()))

    def say_close(self, request: Request) -> None:
        """Let the client know where its listener is closing. Called for every request."""
        for listener in self._listeners:
            if listener.state == "closing" and listener.holds(protocol_of(request)):
                http_of(request).keep_alive = False

    async def closing(self, request: Request) -> None:
        """Return when the listener that `request` came in on begins to close."""
        protocol = protocol_of(request)
        for listener in self._listeners:
            if listener.holds(protocol):
                await listener.closing.wait()
                return

    def arrived(self, connection: Connection) -> None:
        """A client has connected. Over the limit, the idlest of all make room."""
        if sum(len(server.connections) for one in self._listeners for server in one.servers) > self.most:
            make_room([held for one in self._listeners for held in one.connections()], connection)

    def _look(self) -> None:
        self._watch = asyncio.get_running_loop().call_later(WATCH_S, self._look)
        self._patience.look(held for one in self._listeners for held in one.connections())

    def _find(self, host: str, port: int) -> _Listener | None:
        for listener in self._listeners:
            if (listener.host, listener.port, listener.state) == (host, port, "open"):
                return listener
        return None

    async def _wind_down(self, listener: _Listener, end: float, idle: float) -> None:
        while connections := listener.connections():
            now = time.monotonic()
            if now >= end:
                return
            for connection in connections:
                if now - connection._time >= idle:
                    connection.close_if_idle()
            await asyncio.sleep(min(LOOK_S, max(0.0, end - now)))


async def _bind(host: str, port: int) -> list[socket.socket]:
    """One socket for each address that `host` means: `localhost` has two."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, f"{host} is not an address of this machine: {error.strerror}") from error
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            if sockets and port == 0:  # every address gets the port that the first one got
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sock = undo.enter_context(socket.socket(family, kind, protocol))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # `::` alone means every address, the IPv4 ones too
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            try:
                sock.bind(address)
                sock.listen(BACKLOG)
            except OSError as error:
                raise OSError(error.errno, _why(error, host, port)) from error
            sock.setblocking(False)
            sockets.append(sock)
        undo.pop_all()
    return sockets


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use by another program; stop it, or set server.port to a free one"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs rights that this program does not have; set server.port to 1024 or above"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine; set server.host to one, or to 0.0.0.0 for all"
    return f"cannot listen on {host} port {port}: {error.strerror}"
