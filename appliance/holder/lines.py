"""JSON objects over a stream socket, one a line, and open files beside them.

A message with descriptors says how many (`fds`). They arrive with its first byte at the latest, and in order,
so those of a message are the next ones in the queue however the bytes were cut.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

LONGEST = 64 * 1024  # bytes of a line
MOST_FDS = 64  # in one message
WAITING = 1024 * 1024  # bytes that the other side may leave unread

Message = dict[str, Any]


class Closed(Exception):
    """The other side is gone."""


class Malformed(Exception):
    """The other side does not speak this language. The message says where it went wrong."""


class Lines:
    """One end. Never blocks; `unsent` says that `flush` is to be called when the socket can be written."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._in = bytearray()
        self._fds: deque[int] = deque()
        self._out: deque[tuple[bytes, tuple[int, ...]]] = deque()

    @property
    def unsent(self) -> bool:
        return bool(self._out)

    def read(self) -> list[tuple[Message, list[int]]]:
        """The messages that have come, each with its descriptors, which are the caller's to close.

        Raises Closed at the end, Malformed for what is no message.
        """
        room = socket.CMSG_SPACE(MOST_FDS * array.array("i").itemsize)
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(
                LONGEST, room, getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            )
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise Closed(str(error)) from error
        for level, kind, raw in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(raw[: len(raw) - len(raw) % numbers.itemsize])
                for number in numbers:
                    os.set_inheritable(number, False)
                    self._fds.append(number)
        if flags & socket.MSG_CTRUNC:
            raise Malformed("too many descriptors in one message")
        if not data:
            raise Closed("the connection has ended")
        self._in += data
        *lines, rest = bytes(self._in).split(b"\n")
        self._in = bytearray(rest)
        if len(rest) > LONGEST:
            raise Malformed(f"a line of more than {LONGEST} bytes")
        return [self._message(line) for line in lines if line.strip()]

    def _message(self, line: bytes) -> tuple[Message, list[int]]:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Malformed("a line that is not JSON") from error
        if not isinstance(message, dict):
            raise Malformed("a line that is no JSON object")
        count = message.pop("fds", 0)
        if not isinstance(count, int) or not 0 <= count <= len(self._fds):
            raise Malformed("a message without the descriptors it speaks of")
        return message, [self._fds.popleft() for _ in range(count)]

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Raises Closed. The descriptors stay the caller's, who keeps them open until `unsent` is False."""
        words = {**message, "fds": len(fds)} if fds else message
        self._out.append((json.dumps(words, default=str).encode() + b"\n", tuple(fds)))
        self.flush()

    def flush(self) -> None:
        """Send what can be sent now. Raises Closed."""
        while self._out:
            data, fds = self._out[0]
            try:
                sent = socket.send_fds(self.sock, [data], list(fds)) if fds else self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                if sum(len(waiting) for waiting, _ in self._out) > WAITING:
                    raise Closed("the other side does not read") from None
                return
            except OSError as error:
                raise Closed(str(error)) from error
            self._out.popleft()
            if sent < len(data):
                self._out.appendleft((data[sent:], ()))

    def close(self) -> None:
        for number in self._fds:
            os.close(number)
        self._fds.clear()
        self.sock.close()
