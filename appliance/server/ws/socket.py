"""One WebSocket: the handshake, frames in and out, and its end (RFC 6455).

Frames that come in go through `websockets`' protocol without I/O, which knows masks, fragments and every way
to break the rules. Frames that go out are a few bytes before JSON that is already there: one
`transport.write`, as for Server-Sent Events. No extension is agreed on, so nothing is compressed.

What has not been looked at is bounded: reading stops while the inbox is full or the client does not read. A
client that takes nothing for long is cut off by `patience`, one that does not answer pings by the pulse here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

from sanic.request import Request
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from appliance.errors import ApiError
from appliance.server.caller import PROTOCOL
from appliance.server.connection import Connection, http_of, protocol_of, transport_of
from appliance.server.replies import request_id

SLICE = 16 * 1024  # bytes taken in at once; thousands of the smallest frames, some milliseconds
INBOX = 64 * 1024  # bytes; reading stops above
PULSE_S = 20.0  # of silence before a ping
DEAD_S = 60.0  # of silence
CLOSE_S = 5.0  # for the other side's part of closing

_quiet = logging.getLogger("lmx.ws.protocol")  # logs each connection that closes
_quiet.setLevel(logging.WARNING)


class Gone(Exception):
    """The other side has left, or is about to: nothing can be sent any more."""


class Socket:
    """`accept` first; then iterate over `messages` and `write`. Cancelling the reader ends it.

    most: bytes of one message. on_wind_down: the listener closes. beat: called each PULSE_S.
    """

    def __init__(
        self, request: Request, most: int, on_wind_down: Callable[[], None], beat: Callable[[], None]
    ) -> None:
        self._request = request
        self._transport = transport_of(request)
        connection = protocol_of(request)
        assert isinstance(connection, Connection)
        self._connection = connection
        self._ws = ServerProtocol(state=OPEN, max_size=most, logger=_quiet)
        self._on_wind_down, self._beat = on_wind_down, beat
        self._inbox = bytearray()
        self._news = asyncio.Event()
        self._paused = False
        self._binary = False  # the message that comes in
        self._message: bytearray | None = None  # of several frames, not complete yet
        self._heard = time.monotonic()
        self._pulse: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None

    def accept(self) -> None:
        """Answer the handshake. Raises ApiError where it is none."""
        request, http = self._request, http_of(self._request)
        if request.query_string:
            text = "/v1/ws takes no parameters: what is asked for goes into messages, a key into a header"
            raise ApiError("invalid_request", text)
        if not http.upgrade_websocket or http.request_body or request.version != "1.1":
            raise ApiError(
                "invalid_request", "/v1/ws speaks WebSocket: connect to it with a WebSocket client"
            )
        handshake = Handshake(request.path, Headers(list(request.headers.items())))
        response = self._ws.accept(handshake)
        if response.status_code != 101:
            reason = (response.body or b"").decode("utf-8", "replace").strip().partition("\n")[0]
            raise ApiError("invalid_request", reason or "this is no WebSocket handshake")
        head = [f"HTTP/1.1 101 {response.reason_phrase}"]
        head += [f"{name}: {value}" for name, value in response.headers.items()]
        head.append(f"X-Request-Id: {request_id(request)}")
        offered = ",".join(request.headers.getall("sec-websocket-protocol", []))
        if PROTOCOL in (one.strip() for one in offered.split(",")):
            head.append(f"Sec-WebSocket-Protocol: {PROTOCOL}")
        self._transport.write("\r\n".join([*head, "", ""]).encode("latin-1"))
        self._connection.tunnel = self
        early, self._connection.recv_buffer[:] = bytes(self._connection.recv_buffer), b""
        if early:
            self.received(early)
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._schedule()

    # --- out --------------------------------------------------------------------------------------

    def write(self, data: bytes) -> bool:
        """Send whole frames now. True: too much is unsent, and the caller must `await drain()`.

        Raises Gone.
        """
        if self._ws.state is not OPEN or self._transport.is_closing():
            raise Gone
        self._transport.write(data)
        return not self._connection._can_write.is_set()

    async def drain(self) -> None:
        """Return when the reader has caught up."""
        await self._connection._can_write.wait()

    def close(self, code: CloseCode, reason: str) -> None:
        """Say goodbye; `messages` ends when the other side has, within CLOSE_S."""
        if self._ws.state is OPEN:
            self._ws.send_close(code, reason)
            self._flush()

    def abort(self) -> None:
        self._transport.abort()

    def stop(self) -> None:
        """Nothing is awaited any more."""
        for timer in (self._pulse, self._end):
            if timer is not None:
                timer.cancel()

    def _flush(self) -> None:
        """Send what the protocol itself has to say."""
        for data in self._ws.data_to_send():
            if data and not self._transport.is_closing():
                self._transport.write(data)
        if self._ws.state is not OPEN and self._end is None:
            self._end = asyncio.get_running_loop().call_later(CLOSE_S, self._transport.abort)

    # --- in ---------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """From the connection."""
        self._inbox += data
        self._heard = self._connection._time = time.monotonic()
        if len(self._inbox) > INBOX and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._news.set()

    def wind_down(self) -> None:
        """From the listener, perhaps more than once."""
        self._on_wind_down()

    async def messages(self) -> AsyncIterator[bytes | None]:
        """Each text message whole, as UTF-8 unless the client lies; None for a binary one. Ends with the
        connection."""
        while not self._ws.eof_sent:
            if not self._inbox:
                self._news.clear()
                await self._news.wait()
            part = bytes(memoryview(self._inbox)[:SLICE])
            del self._inbox[:SLICE]
            if self._paused and len(self._inbox) <= INBOX and not self._transport.is_closing():
                self._paused = False
                self._transport.resume_reading()
            self._ws.receive_data(part)
            events = self._ws.events_received()
            self._flush()
            for event in events:
                if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    whole = self._assembled(event)
                    if whole is not None:
                        yield None if self._binary else whole
                    del whole  # what was yielded is its reader's alone
            await self.drain()
            await asyncio.sleep(0)  # others have their turn between two slices

    def _assembled(self, frame: Frame) -> bytes | None:
        if frame.opcode is not Opcode.CONT:
            self._binary = frame.opcode is Opcode.BINARY
            if frame.fin:
                return bytes(frame.data)
            self._message = bytearray(frame.data)
            return None
        assert self._message is not None  # else the protocol has refused it
        self._message += frame.data
        if not frame.fin:
            return None
        whole, self._message = self._message, None
        return bytes(whole)

    # --- pulse ------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        self._pulse = asyncio.get_running_loop().call_later(PULSE_S, self._tick)

    def _tick(self) -> None:
        silent = time.monotonic() - self._heard
        if silent >= DEAD_S and not self._paused:
            self._transport.abort()
            return
        if silent >= PULSE_S and self._ws.state is OPEN:
            self._ws.send_ping(b"")
            self._flush()
        self._schedule()
        self._beat()


def frame(data: bytes) -> bytes:
    """One text frame, unmasked as a server's are."""
    size = len(data)
    if size < 126:
        return b"\x81%c%b" % (size, data)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), data)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), data)
