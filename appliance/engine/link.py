"""The engine's end of the socket pair: whole frames in, whole frames out.

Sends block, on purpose. A parent that does not read stops the decode loop after one socket buffer of
output, so memory stays bounded without a queue. The reader must never send for the same reason: it has
to stay free to see Cancel, Shutdown and the end of the connection.
"""

from __future__ import annotations

import socket
import threading

from appliance import wire


class Closed(Exception):
    """The other end is gone."""


class Link:
    """One connected stream socket, shared by one reading thread and any number of senders."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._sending = threading.Lock()

    def send(self, message: wire.FromEngine) -> None:
        """Send one frame; raises Closed."""
        frame = wire.encode(message)
        try:
            with self._sending:
                self._sock.sendall(frame)
        except OSError as error:
            raise Closed(f"cannot send to the parent: {error}") from error

    def receive(self) -> wire.ToEngine:
        """Wait for one message; raises Closed at the end, and WireError for anything but a message."""
        (length,) = wire.HEADER.unpack(self._exactly(wire.HEADER.size))
        if length > wire.MAX_FRAME:
            raise wire.WireError(f"a frame of {length} bytes is over the limit of {wire.MAX_FRAME}")
        return wire.decode_to_engine(self._exactly(length))

    def _exactly(self, count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                got = self._sock.recv_into(view)
            except OSError as error:
                raise Closed(f"cannot read from the parent: {error}") from error
            if got == 0:
                raise Closed("the parent closed the connection")
            view = view[got:]
        return data
