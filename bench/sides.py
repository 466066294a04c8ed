"""The three sides: mlx-lm's own loop (the limit), mlx-lm's server (the peer), and LMX.

All run in processes of their own on the same BLAS and stay up for all rounds. The two that are not
measured at a moment are stopped (SIGSTOP), so that their idle threads take nothing from the third.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import psutil
import yaml

from bench import client
from bench.client import Result
from bench.workload import Load

ROOT = Path(__file__).resolve().parents[1]
START_LIMIT_S = 120.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Side(Protocol):
    name: str
    process: subprocess.Popen[Any]

    def run(self, load: Load, round_: int) -> Result: ...

    def close(self) -> None: ...


class Limit:
    """`bench.limit_loop` in a child: no server, no socket, no text beyond what mlx-lm itself makes."""

    name = "limit"

    def __init__(self, folder: Path) -> None:
        self.process: subprocess.Popen[Any] = subprocess.Popen(
            [sys.executable, "-m", "bench.limit_loop", str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._answer() != {"ready": True}:
            raise RuntimeError("the limit's child did not start")

    def run(self, load: Load, round_: int) -> Result:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"load": asdict(load), "round": round_}) + "\n")
        self.process.stdin.flush()
        return Result(**self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())  # type: ignore[no-any-return]

    def close(self) -> None:
        self.process.communicate(timeout=30)


class _Server:
    """A side that speaks HTTP."""

    def __init__(self, name: str, command: list[str], port: int, model: str, log: Path) -> None:
        self.name, self.port, self.model = name, port, model
        self._command, self._log = command, log
        self.process = self._start()

    def _start(self) -> subprocess.Popen[Any]:
        with self._log.open("wb") as out:
            return subprocess.Popen(self._command, cwd=ROOT, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    def run(self, load: Load, round_: int) -> Result:
        return asyncio.run(client.run(self.port, self.model, load, round_))

    def wait(self, path: str) -> None:
        end = time.monotonic() + START_LIMIT_S
        while time.monotonic() < end:
            if _answers(f"http://127.0.0.1:{self.port}{path}"):
                return
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}")
            time.sleep(0.05)
        self.close()  # nobody else could: it is not built yet
        raise RuntimeError(f"{self.name} did not come up; see {self._log}")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class Peer(_Server):
    """mlx-lm's server, with OpenBLAS loaded before MLX as LMX's engines do."""

    def __init__(self, folder: Path, scratch: Path, *options: str) -> None:
        port = free_port()
        command = [sys.executable, "-m", "bench.peer", "--model", str(folder), "--port", str(port)]
        command += ["--log-level", "ERROR", *options]
        super().__init__("peer", command, port, str(folder), scratch / "peer.log")
        self.wait("/v1/models")


class Ours(_Server):
    def __init__(self, folder: Path, scratch: Path, **changes: Any) -> None:
        port = free_port()
        self.file = scratch / "lmx.yaml"
        self.spec: dict[str, Any] = {
            "version": 1,
            "active": "bench",
            "models": {"bench": {"source": str(folder), "concurrency": 16}},
            "state": {"path": str(scratch / "state")},
            "cache": {"path": str(scratch / "cache")},  # nothing of an earlier run
            "server": {"host": "127.0.0.1", "port": port},
            **changes,
        }
        self.save(self.spec)
        command = [sys.executable, "-m", "appliance.cli", "up", "-f", str(self.file)]
        super().__init__("ours", command, port, "bench", scratch / "up.log")
        self.wait("/readyz")

    def save(self, spec: dict[str, Any]) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(yaml.safe_dump(spec))
        os.replace(new, self.file)

    def kill(self) -> None:
        """kill -9 of everything at once."""
        family = _family(self)
        for process in family:
            process.send_signal(signal.SIGKILL)
        self.process.wait(60)
        psutil.wait_procs(family, 60)

    def restart(self) -> None:
        """The same command again; returns when it is ready."""
        self.process = self._start()
        self.wait("/readyz")


@contextlib.contextmanager
def only(running: Any, sides: Sequence[Any]) -> Iterator[None]:
    """Every other side is stopped, its children too, and goes on afterwards."""
    stopped = [p for side in sides if side is not running for p in _family(side)]
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(stopped):
            process.send_signal(signal.SIGCONT)


def _family(side: Any) -> list[psutil.Process]:
    parent = psutil.Process(side.process.pid)
    # The parent first, so that it does not see its children stop.
    return [parent, *parent.children(recursive=True)]
