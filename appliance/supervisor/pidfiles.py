"""One small file per running engine, so that a parent's successor can find what it left behind.

An engine notices that its parent is gone and exits by itself; this is for the one that cannot, because
it hangs in native code. Nothing is killed on the word of a number alone: the process must also have
been created when the file says, and must run the same command.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import psutil

log = logging.getLogger("lmx.supervisor")

SAME = 2.0  # seconds two readings of one creation time may differ: the clock is adjusted while we run
PATIENCE = 5.0  # seconds to wait for the kernel to take away what was killed


@dataclass(frozen=True)
class PidFile:
    id: str
    pid: int
    created: float  # seconds since the epoch
    command: list[str]


def folder(state: Path) -> Path:
    return state / "engines"


def _path(state: Path, engine: str) -> Path:
    return folder(state) / f"{quote(engine, safe='')}.json"


def write(state: Path, engine: str, pid: int) -> None:
    """Write the file whole. A process that is gone already gets none."""
    try:
        process = psutil.Process(pid)
        record = PidFile(engine, pid, process.create_time(), process.cmdline())
    except psutil.Error:
        return
    folder(state).mkdir(parents=True, exist_ok=True, mode=0o700)
    path = _path(state, engine)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(record)), encoding="utf-8")
    os.replace(temporary, path)


def remove(state: Path, engine: str) -> None:
    _path(state, engine).unlink(missing_ok=True)


def reap_orphans(state: Path) -> list[str]:
    """Kill the engines an earlier parent left; returns their ids. Call before the first spawn.

    Blocks until they are gone, a few seconds at most.
    """
    killed: list[tuple[str, psutil.Process]] = []
    for path in sorted(folder(state).glob("*")):
        record = _read(path)
        if record is not None and (process := _alive(record)) is not None:
            log.warning(
                "killing engine %s (process %d), left over from an earlier run", record.id, record.pid
            )
            _kill(process)
            killed.append((record.id, process))
        path.unlink(missing_ok=True)
    _, alive = psutil.wait_procs([process for _, process in killed], timeout=PATIENCE)
    for process in alive:
        log.error("process %d, an engine of an earlier run, does not go away", process.pid)
    return [engine for engine, _ in killed]


def _read(path: Path) -> PidFile | None:
    if path.suffix != ".json":
        return None  # a temporary that was never renamed
    try:
        record = PidFile(**json.loads(path.read_text(encoding="utf-8")))
        return record if record.pid > 1 else None
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s is not readable and names no engine: %s", path, error)
        return None


def _alive(record: PidFile) -> psutil.Process | None:
    try:
        process = psutil.Process(record.pid)
        if abs(process.create_time() - record.created) > SAME or process.cmdline() != record.command:
            return None  # the number was given to somebody else
    except psutil.Error:
        return None
    return process


def _kill(process: psutil.Process) -> None:
    """With all that it started: an engine leads a process group of its own."""
    try:
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, psutil.NoSuchProcess):
        return
