"""A real appliance in a folder of its own: `lmx up` as a user runs it, with real engines."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "models" / "lmx-demo"
MINI = ROOT / "examples" / "models" / "lmx-demo-mini"
LIMIT_S = 90.0  # for any one thing, also on a machine with other work to do
LOOK_S = 0.05  # an answer to /status is work for the one who is waited for


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def gone(processes: list[psutil.Process], limit: float = LIMIT_S) -> bool:
    """Whether all of them end in time. A zombie has ended: when it is buried is up to init, and no news."""
    end = time.monotonic() + limit
    while any(_runs(process) for process in processes):
        if time.monotonic() >= end:
            return False
        time.sleep(LOOK_S)
    return True


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Machine:
    """One state folder, one lmx.yaml, one process at a time."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.file = folder / "lmx.yaml"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "up.log"
        self.env: dict[str, str] = {}  # for `up`, on top of the usual
        self.headers: dict[str, str] = {}  # of every call
        self.command = [sys.executable, "-W", "error", "-m", "appliance.cli", "up", "-f", str(self.file)]

    # --- the file ----------------------------------------------------------------------------------

    def spec(self, **changes: Any) -> dict[str, Any]:
        """The usual spec of these tests, with top-level keys replaced."""
        base: dict[str, Any] = {
            "version": 1,
            "active": "demo",
            "models": {
                "demo": {"source": str(DEMO), "sampling": {"temperature": 0}, "concurrency": 16},
                "mini": {"source": str(MINI), "sampling": {"temperature": 0}, "concurrency": 16},
            },
            "state": {"path": str(self.folder / "state")},
            "server": {"host": "127.0.0.1", "port": self.port},
            "slo": {"ttft_p95": None},  # tests may run on a busy machine: late answers are no news there
        }
        return {**base, **changes}

    def write(self, spec: dict[str, Any] | str | bytes) -> None:
        """Save as a careful editor does: a new file, renamed over the old one."""
        text = (
            spec
            if isinstance(spec, bytes)
            else (spec.encode() if isinstance(spec, str) else yaml.safe_dump(spec, sort_keys=False).encode())
        )
        new = self.file.with_suffix(".new")
        new.write_bytes(text)
        os.replace(new, self.file)

    # --- the process -------------------------------------------------------------------------------

    def up(self, spec: dict[str, Any] | str | None = None, *, wait: bool = True) -> Machine:
        if spec is not None or not self.file.exists():
            self.write(spec if spec is not None else self.spec())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(self.folder), **self.env},
            )
        if wait:
            self.until(lambda s: s["summary"] == "Ready")
        return self

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(LIMIT_S)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            engines = self.engines()
            self.process.kill()
            self.process.wait(LIMIT_S)
            assert gone(engines)

    def engines(self) -> list[psutil.Process]:
        """The engine processes of this appliance that run now."""
        assert self.process is not None
        return [p for p in psutil.Process(self.process.pid).children() if _runs(p)]

    # --- the API -----------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """(status, parsed body); errors included. Raises OSError when nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=data,
            headers={**({"Content-Type": "application/json"} if data is not None else {}), **self.headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def status(self) -> dict[str, Any]:
        return self.call("GET", "/status")[1]  # type: ignore[no-any-return]

    def condition(self, kind: str) -> dict[str, Any]:
        return next(c for c in self.status()["conditions"] if c["type"] == kind)

    def ask(self, text: str, **fields: Any) -> tuple[int, Any]:
        body = {"messages": [{"role": "user", "content": text}], **fields}
        return self.call("POST", "/v1/chat/completions", body)

    def answer(self, text: str, **fields: Any) -> str:
        """What the model says; fails the test on any error."""
        status, body = self.ask(text, **fields)
        assert status == 200, body
        return str(body["choices"][0]["message"]["content"])

    def until(self, holds: Callable[[dict[str, Any]], bool], limit: float = LIMIT_S) -> dict[str, Any]:
        """The first status for which `holds`; fails after `limit` seconds with the last one and the log."""
        end = time.monotonic() + limit
        seen: Any = "nothing answered"
        while time.monotonic() < end:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"lmx ended with {self.process.returncode}\n{self.tail()}")
            try:
                seen = self.status()
                if holds(seen):
                    return seen  # type: ignore[no-any-return]
            except (OSError, StopIteration, KeyError):
                pass  # not up yet, on its way to another port, or not listed yet: asked again until the limit
            time.sleep(LOOK_S)
        raise AssertionError(
            f"not reached in {limit:g} s\n{json.dumps(seen, indent=1)[-6000:]}\n{self.tail()}"
        )

    def until_engines(self, count: int) -> None:
        """Exactly this many child processes: those on their way out take a moment."""
        end = time.monotonic() + LIMIT_S
        while len(self.engines()) != count:
            assert time.monotonic() < end, f"{self.engines()}\n{self.tail()}"
            time.sleep(LOOK_S)

    def until_synced(self, active: str | None = None) -> dict[str, Any]:
        """The newest content of the file is what runs."""
        import hashlib

        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        return self.until(
            lambda s: (
                (s["last_attempted"] or {}).get("content_digest") == digest
                and s["last_attempted"]["outcome"] == "applied"
                and s["summary"] == "Ready"
                and (active is None or s["active"]["actual"] == active)
            )
        )

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
