"""One child process: its environment, its last words and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import site
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

log = logging.getLogger("lmx.engine")

TAIL = 8 * 1024  # bytes of the child's last output kept for failure messages
ENGINE = (sys.executable, "-P", "-m", "appliance.engine")
ROOT = str(Path(__file__).resolve().parents[2])  # the folder that holds the package

PASSED = frozenset(
    ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
)
PASSED_PREFIXES = (
    *("LC_", "PYTHON", "MLX_", "MTL_", "METAL_", "OPENBLAS_", "OMP_", "MKL_", "VECLIB_"),
    *("HF_", "TRANSFORMERS_", "TOKENIZERS_"),
)
SECRET = ("TOKEN", "SECRET", "PASS", "CREDENTIAL", "KEY")


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """What an engine needs of our environment, and nothing that looks like a secret.

    The tokens of a hub stay out: an engine reads local files only.
    """
    kept = {name: value for name, value in own.items() if name in PASSED or name.startswith(PASSED_PREFIXES)}
    clean = {name: value for name, value in kept.items() if not _secret(name)}
    if ROOT not in site.getsitepackages():  # running from a checkout
        clean["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, clean.get("PYTHONPATH")]))
    return clean


def _secret(name: str) -> bool:
    # TOKENIZERS_PARALLELISM holds the word too, and is none
    return any(word in name.removeprefix("TOKENIZERS_") for word in SECRET)


class Child(asyncio.SubprocessProtocol):
    """A running child. `exited` is set when it has been reaped; `tail` is what it said last."""

    def __init__(self, name: str, on_exit: Callable[[], None]) -> None:
        self.name = name
        self._on_exit = on_exit
        self.tail = bytearray()
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()
        self.pid = 0
        self._line = bytearray()
        self._transport: asyncio.SubprocessTransport | None = None

    @property
    def returncode(self) -> int:
        """Once `exited`: the exit status, or minus the number of the signal."""
        assert self._transport is not None
        code = self._transport.get_returncode()
        assert code is not None
        return code

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self.pid = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.tail = (self.tail + data)[-TAIL:]
        *lines, rest = (self._line + data).split(b"\n")
        for line in lines:
            self._forward(line)
        self._line = bytearray(rest)
        if len(self._line) > TAIL:
            self._flush()

    def process_exited(self) -> None:
        self.kill()  # whatever it started itself goes with it
        self.exited.set()
        self._on_exit()

    async def wait(self, seconds: float) -> bool:
        """Whether it has exited within that time."""
        try:
            async with asyncio.timeout(seconds):
                await self.exited.wait()
        except TimeoutError:
            return False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._flush()
        self.closed.set()

    def _flush(self) -> None:
        line, self._line = self._line, bytearray()
        self._forward(line)

    def _forward(self, line: bytes | bytearray) -> None:
        text = line.decode("utf-8", "replace").strip()
        if text:
            log.info("%s: %s", self.name, text)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """To the whole process group: the child leads one of its own. Never after the exit, when the number
        may be somebody else's."""
        if self.exited.is_set():
            return
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # gone already; a group of zombies answers "not permitted" on macOS

    async def close(self, patience: float = 1.0) -> None:
        """After the exit: wait for its last words, then let go of the pipe, whoever holds it."""
        assert self._transport is not None
        try:
            async with asyncio.timeout(patience):
                await self.closed.wait()
        except TimeoutError:
            self._transport.close()
            await self.closed.wait()
        self._transport.close()


async def spawn(
    name: str,
    command: Sequence[str],
    env: Mapping[str, str],
    on_exit: Callable[[], None],
    *,
    cwd: Path | None = None,
    make: Callable[[str, Callable[[], None]], Child] = Child,
) -> tuple[Child, socket.socket]:
    """Start `command --fd N`. Returns the child and our end of the socket pair; raises OSError.

    It leads a session of its own, so a ^C at the terminal reaches the parent alone. make: of which class
    the child is.
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            loop = asyncio.get_running_loop()
            fd = theirs.fileno()
            _, child = await loop.subprocess_exec(
                lambda: make(name, on_exit),
                *command,
                "--fd",
                str(fd),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(fd,),
                close_fds=True,
                start_new_session=True,
                env=dict(env),
                cwd=cwd,
            )
    except BaseException:
        ours.close()
        raise
    ours.setblocking(False)
    return child, ours
