"""The control socket: who asks, and what they are told until it is done.

A question is one line; the answers are lines too, the last one with `done`. A line that is not understood is
answered with an error and ends that connection, never the holder.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

from appliance.holder.holder import Holder
from appliance.holder.lines import Closed, Lines, Malformed
from appliance.holder.moves import Refused

MOST = 16  # connections at once
SILENT_S = 10.0  # for a question to come


class Desk:
    def __init__(self, sock: socket.socket, holder: Holder, log: Callable[[str], None]) -> None:
        self._sock, self._holder, self._log = sock, holder, log
        self._open: dict[Lines, float | None] = {}  # until when the question must have come
        holder.selector.register(sock, selectors.EVENT_READ, self._accept)

    def look(self) -> None:
        """Now and then: let go of those who say nothing."""
        now = time.monotonic()
        for lines, until in list(self._open.items()):
            if until is not None and now > until:
                self._drop(lines)
            elif lines.unsent:
                self._try(lines, lines.flush)

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            self._log(f"a caller could not be let in: {error}")
            return
        if len(self._open) >= MOST:
            sock.close()
            return
        lines = Lines(sock)
        self._open[lines] = time.monotonic() + SILENT_S
        self._holder.selector.register(sock, selectors.EVENT_READ, lambda: self._read(lines))

    def _read(self, lines: Lines) -> None:
        try:
            messages = lines.read()
        except Closed:
            self._drop(lines)
            return
        except Malformed as error:
            self._refuse(lines, str(error))
            return
        for words, fds in messages:
            if fds or self._open.get(lines) is None:
                self._refuse(lines, "one question, and no open files")
                return
            self._open[lines] = None
            try:
                self._holder.ask(words, lambda answer: self._say(lines, answer))
            except Refused as error:
                self._refuse(lines, str(error))
                return

    def _say(self, lines: Lines, answer: dict[str, Any]) -> None:
        if lines in self._open:
            self._try(lines, lambda: lines.send(answer))
        if answer.get("done") and lines in self._open and not lines.unsent:
            self._drop(lines)

    def _refuse(self, lines: Lines, why: str) -> None:
        self._try(lines, lambda: lines.send({"done": True, "ok": False, "error": why}))
        self._drop(lines)

    def _try(self, lines: Lines, act: Callable[[], None]) -> None:
        try:
            act()
        except Closed:
            self._drop(lines)

    def _drop(self, lines: Lines) -> None:
        if self._open.pop(lines, False) is not False:
            self._holder.selector.unregister(lines.sock)
            lines.close()
