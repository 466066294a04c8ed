"""One process of a skill: started, spoken to, watched, and ended with all that it started.

Its process group, working folder and environment are its own. A process that runs a Python function takes
one call at a time and is killed where that call must end early; an MCP client takes many and is asked to
let go of one, and killed only where it does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import psutil

from appliance.skills import messages
from appliance.skills.messages import Call, Cancel, Failed, Lost, Ready, Result, Setup
from appliance.supervisor import pidfiles
from appliance.supervisor.footprint import footprint
from appliance.supervisor.process import ROOT, Child, spawn

HOST = (sys.executable, "-P", "-m", "appliance.skills.host")
START_S = 30.0  # to import a module, or to start a server and ask for its tools
LET_GO_S = 2.0  # to acknowledge a cancel
OUTPUT = 1024 * 1024  # bytes printed within WINDOW_S
WINDOW_S = 10.0
LINES = 100  # of them, that reach the log within WINDOW_S
LINE = 500  # characters of each
MEMORY_LOOK_S = 0.25
KEPT = ("PATH", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ")

log = logging.getLogger("lmx.skills")


class NotStarted(Exception):
    """In words, for the operator."""


class _Process(Child):
    """A child whose output is bounded: what floods the log or our time is ended."""

    def __init__(self, name: str, on_exit: Callable[[], None]) -> None:
        super().__init__(name, on_exit)
        self._loop = asyncio.get_running_loop()
        self._window = self._loop.time()
        self._bytes = self._lines = 0
        self.flooded = False

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        now = self._loop.time()
        if now - self._window > WINDOW_S:
            self._window, self._bytes, self._lines = now, 0, 0
        self._bytes += len(data)
        if self._bytes <= OUTPUT:
            super().pipe_data_received(fd, data)
        elif not self.flooded:
            self.flooded = True
            self.kill()

    def _forward(self, line: bytes | bytearray) -> None:
        self._lines += 1
        if self._lines < LINES:
            super()._forward(line[:LINE])
        elif self._lines == LINES:
            log.info("%s: prints more than is shown here", self.name)


class Worker:
    """on_message: Ready and Lost after the first Ready. on_end: once, when the process is gone."""

    def __init__(
        self,
        setup: Setup,
        on_message: Callable[[Ready | Lost], None],
        on_end: Callable[[Worker], None],
    ) -> None:
        self.name, self._setup = setup.name, setup
        self._on_message, self._on_end = on_message, on_end
        self._numbers = count(1)
        self._pending: dict[int, asyncio.Future[Result]] = {}
        self._letting_go: dict[int, asyncio.TimerHandle] = {}
        self._why: str | None = None  # it was ended by us
        self._started: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._base = 0  # bytes before the first call
        self._state: Path
        self._id = ""
        self._folder: Path
        self._child: _Process
        self._writer: asyncio.StreamWriter
        self._reading: asyncio.Task[None] | None = None
        self.ready: Ready | None = None  # once it has started
        self.ended = False

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def busy(self) -> bool:
        return bool(self._pending)

    @property
    def open(self) -> bool:
        """It takes calls: it has not ended, and was not told to."""
        return not self.ended and self._why is None

    async def start(self, env: Mapping[str, str], state: Path, id: str) -> None:
        """state: where its folder is made, which goes with it. id: like no other's. Raises NotStarted."""
        self._state, self._id = state, id
        begin = asyncio.create_task(self._begin(env))
        try:
            await asyncio.shield(begin)
        except asyncio.CancelledError:
            await asyncio.wait({begin})  # what is half begun cannot be ended
            if self._reading is not None:
                self.end("")
            raise
        try:
            async with asyncio.timeout(START_S):
                self.ready = await self._started
        except TimeoutError:
            self.end("")
            raise NotStarted(f"it was not ready within {START_S:g} s") from None
        except BaseException:
            self.end("")
            raise
        self._base = footprint(self.pid)

    async def call(self, tool: str, arguments: dict[str, Any], seconds: float) -> Result:
        """Never raises but where it is cancelled, which also ends the call."""
        number = next(self._numbers)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        self._send(Call(number, tool, arguments))
        try:
            if self.ended:
                return Result(number, "crashed", "its process has ended")
            async with asyncio.timeout(seconds):
                return await self._within_memory(future)
        except TimeoutError:
            self._let_go(number, "")
            return Result(number, "timeout", f"it took longer than {seconds:g} s and was ended")
        except asyncio.CancelledError:
            self._let_go(number, "")
            raise
        finally:
            self._pending.pop(number, None)

    def end(self, why: str) -> None:
        """Kill it and what it started. why: what calls that run are told."""
        if self.ended or self._why is not None:
            return
        self._why = why
        self._kill()

    async def closed(self) -> None:
        """Until it is gone and its folder with it."""
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    def grown(self) -> bool:
        """It keeps more than half of what it may have: better a fresh one than a call that fails."""
        return footprint(self.pid) > self._base + self._setup.memory // 2

    # --- inside ------------------------------------------------------------------------------------

    async def _begin(self, env: Mapping[str, str]) -> None:
        self._folder = rooms(self._state) / self._id
        self._folder.mkdir(parents=True, mode=0o700)
        own = {"HOME": str(self._folder), "TMPDIR": str(self._folder), **env}
        try:
            child, sock = await spawn(
                f"skill {self.name}", HOST, own, lambda: None, cwd=self._folder, make=_Process
            )
        except OSError as error:
            self.ended = True
            shutil.rmtree(self._folder, ignore_errors=True)
            raise NotStarted(f"no process can be started: {error.strerror}") from error
        assert isinstance(child, _Process)
        self._child = child
        pidfiles.write(self._state, self._id, self.pid)
        reader, self._writer = await asyncio.open_connection(sock=sock, limit=messages.LINE)
        self._reading = asyncio.create_task(self._read(reader), name=f"skill {self.name}")
        self._send(self._setup)

    async def _within_memory(self, future: asyncio.Future[Result]) -> Result:
        """Linux holds a process to its limit by itself; macOS does not, and there the parent looks."""
        if self._setup.python is None:
            return await future
        while not future.done():
            await asyncio.wait({future}, timeout=MEMORY_LOOK_S)
            if not future.done() and footprint(self.pid) > self._base + self._setup.memory:
                self.end("")
                return Result(0, "out_of_memory", "it needed more memory than it may have")
        return future.result()

    def _let_go(self, number: int, why: str) -> None:
        if self._setup.python is not None:
            self.end(why)
            return
        self._send(Cancel(number))
        loop = asyncio.get_running_loop()
        self._letting_go[number] = loop.call_later(LET_GO_S, self.end, "it did not let go of another call")

    def _send(self, message: messages.ToHost) -> None:
        if not self._writer.is_closing():
            self._writer.write(messages.encode(message))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._hear(messages.decode_from_host(line))
        except ConnectionError:
            log.debug("skill %s: its process ended with something unread", self.name)
        except (ValueError, msgspec.MsgspecError) as error:
            log.warning("skill %s: its process speaks nonsense: %s", self.name, error)
        finally:
            self._writer.close()
            self._kill()
            await self._child.exited.wait()
            await self._child.close()
            self._finish()
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _hear(self, message: messages.FromHost) -> None:
        match message:
            case Result(number=number):
                timer = self._letting_go.pop(number, None)
                if timer is not None:
                    timer.cancel()
                future = self._pending.get(number)
                if future is not None and not future.done():
                    future.set_result(message)
            case Failed(message=why):
                self._settle(NotStarted(why))
            case Ready() if not self._started.done():
                self._settle(message)
            case Ready():
                self.ready = message
                self._on_message(message)
            case Lost(message=why):
                self._settle(NotStarted(why))
                self._on_message(message)

    def _kill(self) -> None:
        """With what it started, in whatever session. Not after its end: the number may be another's."""
        if self._child.exited.is_set():
            return
        for process in _descendants(self.pid):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._child.kill()

    def _settle(self, outcome: Ready | NotStarted) -> None:
        if self._started.done():
            return
        if isinstance(outcome, Ready):
            self._started.set_result(outcome)
        else:
            self._started.set_exception(outcome)

    def _finish(self) -> None:
        self.ended = True
        pidfiles.remove(self._state, self._id)
        why = self._last_words()
        for timer in self._letting_go.values():
            timer.cancel()
        self._settle(NotStarted(why))
        self._started.exception()  # seen, so that nobody logs it as forgotten
        for number, future in self._pending.items():
            if not future.done():
                future.set_result(Result(number, "crashed", why))
        self._on_end(self)

    def _last_words(self) -> str:
        if self._why is not None:
            return self._why or "its process was ended"
        if self._child.flooded:
            return f"it printed more than {OUTPUT} bytes and was ended"
        code = self._child.returncode
        if code == -signal.SIGXCPU:
            return "it used more processor time than it may have and was ended"
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        return f"its process ended {how}"


def environment(own: Mapping[str, str], *, home: bool) -> dict[str, str]:
    """What every skill gets of our environment. home: ours, for programs that keep their packages there."""
    clean = {name: own[name] for name in KEPT if name in own}
    if home:
        clean.update({name: own[name] for name in ("HOME", "USER", "LOGNAME") if name in own})
    return {**clean, "PYTHONPATH": ROOT}


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def rooms(state: Path) -> Path:
    """Where the processes have their folders."""
    return state / "skills"


def sweep(state: Path) -> None:
    """Remove what an earlier run left, where it could not do so itself."""
    folder = rooms(state)
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        log.warning("%s cannot be removed; it is of no use to anybody", os.fspath(folder))
