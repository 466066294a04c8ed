"""One appliance, started by the holder."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.holder.lines import Closed, Lines, Message

VARIABLE = "LMX_HOLDER"  # the number of the child's end of the socket pair


@dataclass(frozen=True)
class Command:
    """What serves. words: options of `lmx up`. profile: None is the file itself."""

    python: str
    words: tuple[str, ...]
    profile: str | None = None

    @property
    def argv(self) -> list[str]:
        # -P: what lies in the working folder must not stand in for a module of ours
        chosen = () if self.profile is None else ("--profile", self.profile)
        return [self.python, "-P", "-m", "appliance.cli", "up", *self.words, *chosen]

    @property
    def named(self) -> dict[str, Any]:
        return {"python": self.python, "profile": self.profile}


class Child:
    """Raises OSError where none can be started. It leads a session of its own: ^C reaches the holder only."""

    def __init__(self, command: Command, start: Mapping[str, Any], fds: Sequence[int]) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command.argv,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env={**os.environ, VARIABLE: str(theirs.fileno())},
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        self.command, self.pid = command, self._process.pid
        self.lines = Lines(ours)
        self.since = time.monotonic()
        self.version: str | None = None
        self.drain_s = 60.0
        self.memory = 0
        self.served = False  # it has had the address open
        self.state: Message = {}
        self.failed: str | None = None  # in its own words
        self.told_to_go: float | None = None
        self.deaf = self.deaf_ears = False  # it takes nothing more; it is listened to no more
        self.send({"do": "start", **start}, fds)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """To one that is gone, nothing is sent: its end is seen elsewhere."""
        if not self.deaf:
            try:
                self.lines.send(message, fds)
            except Closed:
                self.deaf = True

    def flush(self) -> None:
        if self.lines.unsent and not self.deaf:
            try:
                self.lines.flush()
            except Closed:
                self.deaf = True

    def signal(self, number: int) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """With all of its session that is still there; its engines notice by themselves."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def ended(self) -> int | None:
        """The exit status, or minus the signal; None while it runs."""
        return self._process.poll()

    @property
    def end(self) -> str:
        """How it ended, in words."""
        status = self._process.returncode
        if self.failed is not None:
            return self.failed
        if status is None:
            return "it does not end"
        if status < 0:
            return f"it was ended by {signal.Signals(-status).name}"
        if self.version is None:
            return (
                f"it ended with status {status} before it said anything: is LMX installed for "
                f"{self.command.python}? Its last words are in the log"
            )
        return f"it ended with status {status}; its log says more"

    def close(self) -> None:
        self.lines.close()
