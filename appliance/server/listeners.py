"""The sockets the server answers on: opened and closed while it runs.

A listener that closes takes no new connection from that moment. Its open connections live on: a
request that runs finishes, and one that still comes in on a kept-alive connection is answered with
`Connection: close`, so no client ever writes into a connection that is about to go. Connections that
stay silent for `IDLE_S` are closed, and after the grace all that is left is cut.

Under a holder (docs/upgrading.md) sockets outlive the process. `kept` are those that it handed over, used
before any is made. While `waits` is set an address counts as open and nobody is let in; `accept` ends that.
`pause` stops accepting and nothing else, `resume` takes it back, and `hand_over` closes all but the sockets
themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Callable
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
    sockets: list[socket.socket]  # what the servers have copies of, so that they can be opened again
    state: Literal["open", "closing"] = "open"
    handed: bool = False  # its address is open in another process
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def connections(self) -> list[Any]:
        return [connection for server in self.servers for connection in server.connections]

    def abort(self) -> None:
        for connection in self.connections():
            connection.abort()

    def release(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets = []

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
        self.kept: dict[tuple[str, int], list[socket.socket]] = {}
        self.waits = False
        self.on_listening: Callable[[], None] = lambda: None  # the addresses that are open have changed
        self.most = most_connections()

    async def open(self, host: str, port: int) -> int:
        """Listen, and return the port, which the system chose where 0 was asked.

        Raises OSError, with a message for people, where the address cannot be bound.
        """
        if self._find(host, port) is not None:
            return port
        try:
            sockets = self.kept.pop((host, port), None) or await _bind(host, port)
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
        port = sockets[0].getsockname()[1]
        listener = _Listener(host, port, [], sockets)
        if not self.waits:
            await self._serve(listener)
        self._listeners.append(listener)
        self.on_listening()
        return port

    async def _serve(self, listener: _Listener) -> None:
        for sock in listener.sockets:
            server = await self._app.create_server(
                sock=sock.dup(), protocol=Connection, backlog=BACKLOG, return_asyncio_server=True
            )
            assert server is not None
            listener.servers.append(server)

    # --- from one process to the next ---------------------------------------------------------------

    async def accept(self) -> None:
        """Let in whoever has waited: this process takes over. What is still `kept` then is nobody's."""
        self.waits = False
        for listener in self._open():
            if not listener.servers:
                await self._serve(listener)
        for sockets in self.kept.values():
            for sock in sockets:
                sock.close()
        self.kept.clear()

    async def pause(self) -> None:
        """Let nobody in; who comes waits in the sockets' queues. Connections that are there go on."""
        for listener in self._open():
            await self._deafen(listener)

    async def resume(self) -> None:
        """The end of `pause`: it is still this process that serves."""
        for listener in self._open():
            await self._serve(listener)

    async def hand_over(self, grace: float, idle: float | None) -> None:
        """As `close` of all addresses; `observed` says that they are open, which they are, elsewhere.

        idle: seconds of silence after which a connection is closed; None: `grace`, so that no request on its
        way ever meets a closed one.
        """
        going = self._open()
        for listener in going:
            listener.handed = True
        await asyncio.gather(
            *(self._close(listener, grace, grace if idle is None else idle) for listener in going)
        )

    @property
    def handed_over(self) -> bool:
        """Whoever connects again finds another process there."""
        return any(listener.handed for listener in self._listeners)

    def sockets(self) -> list[tuple[str, int, list[socket.socket]]]:
        """Of the addresses that are open."""
        return [(one.host, one.port, one.sockets) for one in self._open()]

    def _open(self) -> list[_Listener]:
        return [listener for listener in self._listeners if listener.state == "open"]

    async def _deafen(self, listener: _Listener) -> None:
        # Two rounds of the event loop: what the system has already accepted for us must not be reset.
        for _ in range(2):
            await asyncio.sleep(0)
        for server in listener.servers:
            cast(asyncio.Server, server.server).close()

    async def close(self, host: str, port: int, grace: float, idle: float = IDLE_S) -> None:
        """Take nothing new from now on; return when the last connection is gone, after `grace` at most."""
        listener = self._find(host, port)
        if listener is None:
            self._failed.pop((host, port), None)
            return
        await self._close(listener, grace, idle)

    async def _close(self, listener: _Listener, grace: float, idle: float) -> None:
        listener.state = "closing"
        await self._deafen(listener)
        listener.release()
        self.on_listening()
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
        still = self._open()
        going = [listener for listener in self._listeners if listener.state == "closing"]
        await asyncio.gather(
            *(self.close(one.host, one.port, grace, idle=0.0) for one in still),
            *(self._wind_down(one, end, idle=0.0) for one in going),
        )
        for listener in going:  # the call that closes it sees that nothing is left
            listener.abort()
        Sanic.unregister_app(self._app)

    def observed(self) -> tuple[ListenerObs, ...]:
        up = [ListenerObs(one.host, one.port, "open" if one.handed else one.state) for one in self._listeners]
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
