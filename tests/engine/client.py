"""A small blocking client of one engine process: the parent's side of the wire, for tests.

Nothing sleeps: every wait is for a frame, with a deadline.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from appliance import wire

ROOT = Path(__file__).parents[2]
DEADLINE = 60.0  # seconds for any one thing to happen, also on a busy machine
M = TypeVar("M")


@dataclass
class Reply:
    """All that came back for one request."""

    rid: int
    accepted: wire.Accepted | None = None
    refused: wire.Refused | None = None
    rows: list[wire.Row] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(row.text for row in self.rows)

    @property
    def finish(self) -> str | None:
        return self.rows[-1].finish if self.rows else None

    @property
    def ended(self) -> bool:
        return self.refused is not None or self.finish is not None


class Engine:
    def __init__(
        self, log: Path | None = None, *, module: str = "appliance.engine", options: Sequence[str] = ()
    ) -> None:
        ours, theirs = socket.socketpair()
        with open(log or os.devnull, "ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", module, *options, "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stderr=err,
            )
        theirs.close()
        self.sock = ours
        self.replies: dict[int, Reply] = {}
        self.frames: list[Any] = []  # everything but beats, in order
        self.beats: list[wire.Beat] = []
        self._buffer = bytearray()
        self._rid = 0

    # -- frames --------------------------------------------------------------------------------------

    def send(self, message: wire.ToEngine) -> None:
        self.sock.sendall(wire.encode(message))

    def next(self, deadline: float) -> Any:
        """The next message of any kind; TimeoutError after `deadline` (monotonic), EOFError at the end."""
        while True:
            if len(self._buffer) >= wire.HEADER.size:
                (length,) = wire.HEADER.unpack_from(self._buffer)
                if len(self._buffer) >= wire.HEADER.size + length:
                    body = bytes(self._buffer[wire.HEADER.size : wire.HEADER.size + length])
                    del self._buffer[: wire.HEADER.size + length]
                    return self._note(wire.decode_from_engine(body))
            self.sock.settimeout(max(0.001, deadline - time.monotonic()))
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError("the engine closed the connection")
            self._buffer += data

    def _note(self, message: Any) -> Any:
        if isinstance(message, wire.Beat):
            self.beats.append(message)
            return message
        self.frames.append(message)
        if isinstance(message, wire.Accepted):
            self.replies[message.rid].accepted = message
        elif isinstance(message, wire.Refused):
            self.replies[message.rid].refused = message
        elif isinstance(message, wire.Step):
            for row in message.rows:
                self.replies[row.rid].rows.append(row)
        return message

    def until(self, done: Callable[[], bool], within: float = DEADLINE) -> None:
        """Read frames until `done()` holds."""
        deadline = time.monotonic() + within
        while not done():
            self.next(deadline)

    def expect(self, kind: type[M], within: float = DEADLINE) -> M:
        """Read until a message of this kind comes."""
        deadline = time.monotonic() + within
        while True:
            message = self.next(deadline)
            if isinstance(message, kind):
                return message

    # -- what tests do -------------------------------------------------------------------------------

    def load(self, path: Path, **more: Any) -> wire.Loaded:
        self.send(wire.Load(model="test", path=str(path), **more))
        return self.expect(wire.Loaded)

    def fail_to_load(self, path: Path, **more: Any) -> wire.LoadFailed:
        self.send(wire.Load(model="test", path=str(path), **more))
        return self.expect(wire.LoadFailed)

    def submit(self, prompt: str | list[int] | None = None, **more: Any) -> Reply:
        """Send a request; sampling fields may be given as keywords."""
        self._rid += 1
        fields = {key: more.pop(key) for key in list(more) if key in wire.Sampling.__struct_fields__}
        reply = self.replies[self._rid] = Reply(self._rid)
        self.send(wire.Submit(self._rid, prompt=prompt, sampling=wire.Sampling(**fields), **more))
        return reply

    def finish(self, *replies: Reply, within: float = DEADLINE) -> None:
        self.until(lambda: all(reply.ended for reply in replies), within)

    def ask(self, prompt: str | list[int] | None = None, **more: Any) -> Reply:
        reply = self.submit(prompt, **more)
        self.finish(reply)
        return reply

    def drain(self, within: float = DEADLINE) -> int:
        """Read to the end of the connection; the exit status."""
        deadline = time.monotonic() + within
        try:
            while True:
                self.next(deadline)
        except (EOFError, ConnectionError):
            return self.process.wait(timeout=within)

    def close(self) -> None:
        self.sock.close()
        try:
            self.process.wait(timeout=10)
        finally:
            self.process.kill()
            self.process.wait()
