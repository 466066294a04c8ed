"""The real `lmx` in a process of its own, and a stand-in for the appliance at the other end of HTTP."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.cli.__main__ import main

LMX = [sys.executable, "-W", "error", "-m", "appliance.cli"]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str = ""


class Lmx:
    """Runs verbs in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = LMX
        self.env = {
            **os.environ,
            "HOME": str(folder),
            "TERM": "xterm-256color",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def __call__(self, *words: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Result:
        done = subprocess.run(
            [*self.command, *words],
            cwd=self.folder,
            env={**self.env, **(env or {})},
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    def inside(self, *words: str) -> Result:
        """In this process, which is faster: for verbs that neither wait nor look at a terminal."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(self.folder), redirect_stdout(out), redirect_stderr(err):
            code = main(words)
        return Result(code, out.getvalue(), err.getvalue())

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *words],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def terminal(self, *words: str, types: tuple[str, ...] = (), env: dict[str, str] | None = None) -> Result:
        """On a pseudo-terminal. types: lines to type, each after the prompt sign has come again."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*self.command, *words],
            cwd=self.folder,
            env={**self.env, "COLUMNS": "120", **(env or {})},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        shown, waiting = b"", list(types)
        try:
            while True:
                ready, _, _ = select.select([ours], [], [], 60)
                assert ready, f"nothing came; so far: {shown!r}"
                try:
                    chunk = os.read(ours, 65536)
                except OSError:  # the other side is closed: how Linux says that the process has gone
                    break
                if not chunk:
                    break
                shown += chunk
                if waiting and shown.count("›".encode()) > len(types) - len(waiting):
                    os.write(ours, waiting.pop(0).encode())
            code = process.wait(60)
        finally:
            os.close(ours)
            if process.poll() is None:
                process.kill()
                process.wait()
        return Result(code, shown.decode().replace("\r\n", "\n"))


def status_document(**changes: Any) -> dict[str, Any]:
    """A healthy appliance, as /status tells it."""
    conditions = {
        "Ready": ("True", "ActiveServes", "demo answers"),
        "Synced": ("True", "UpToDate", "generation 3 runs"),
        "ConfigAccepted": ("True", "SpecValid", ""),
        "Reconciling": ("False", "Settled", ""),
        "Stalled": ("False", "Progressing", ""),
        "Degraded": ("False", "NoStep", ""),
        "MemoryPressure": ("Unknown", "NotMeasured", ""),
        **changes.pop("conditions", {}),
    }
    generation = changes.get("generation", 3)
    return {
        "name": "studio-01",
        "version": "0.1.0",
        "uptime_s": 11545.0,
        "summary": "Ready",
        "generation": generation,
        "observed_generation": generation,
        "digest": "d" * 64,
        "source": {
            "kind": "file",
            "path": "/etc/lmx.yaml",
            "revision": None,
            "verified": None,
            "last_checked": 0,
        },
        "last_applied": {"generation": 3, "digest": "d" * 64, "at": 1_700_000_000.0},
        "last_attempted": {
            "content_digest": "c" * 64,
            "outcome": "applied",
            "message": "",
            "at": 1_700_000_000.0,
        },
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "last_transition": 1_700_000_000.0,
                "observed_generation": generation,
            }
            for kind, (status, reason, message) in conditions.items()
        ],
        "active": {"desired": "demo", "actual": "demo"},
        "models": {
            "demo": {
                "state": "ready",
                "reason": "",
                "since": 1_700_000_000.0,
                "progress": None,
                "context": {"declared": 131072, "effective": 8192, "why": "the most that fits"},
                "concurrency": {"declared": 8, "effective": 8, "why": ""},
                "memory": {"forecast_bytes": 3_000_000_000, "measured_bytes": 2_147_483_648},
                "pid": 42,
            },
            "demo-mini": {
                "state": "loading",
                "reason": "",
                "since": None,
                "progress": {"done": 1, "total": 4},
                "context": {"declared": "auto", "effective": None, "why": ""},
                "concurrency": {"declared": 8, "effective": None, "why": ""},
                "memory": {"forecast_bytes": 1_000_000_000, "measured_bytes": None},
                "pid": None,
            },
        },
        "memory": {
            "budget_bytes": 8_589_934_592,
            "used_bytes": 2_147_483_648,
            "level": "normal",
            "step": None,
        },
        "thermal": {"level": None},
        "traffic": {
            "in_flight": 3,
            "queued": 1,
            "tokens_per_s": 412.4,
            "ttft_p50_ms": 80.2,
            "ttft_p95_ms": 210.9,
        },
        "plan": [],
        "history": [
            {"generation": 3, "digest": "d" * 64, "at": 1_700_000_000.0, "applied_at": 1_700_000_001.0},
            {"generation": 2, "digest": "e" * 64, "at": 1_600_000_000.0, "applied_at": None},
        ],
        "events": [
            {"id": 1, "type": "Started", "at": 1_700_000_000.0, "message": "LMX 0.1.0 started", "data": {}},
            {
                "id": 2,
                "type": "SpecRejected",
                "at": 1_700_000_001.0,
                "message": "lmx.yaml:3:1: no",
                "data": {},
            },
        ],
        **changes,
    }


Handler = Callable[[dict[str, Any] | None], "Reply"]


@dataclass(frozen=True)
class Reply:
    """body: JSON, or a list of whole Server-Sent Events."""

    body: Any
    status: int = 200
    breaks: bool = False  # a stream whose connection ends without its last chunk


@dataclass
class Appliance:
    """Answers what it is told to, and remembers what it was asked."""

    url: str = ""
    answers: dict[str, Handler] = field(default_factory=dict)
    asked: list[tuple[str, Any, dict[str, str]]] = field(default_factory=list)

    def on(self, route: str, *replies: Any) -> None:
        """Replies in turn, the last one for ever. What is no `Reply` is the body of a good one."""
        left = [reply if isinstance(reply, Reply) else Reply(reply) for reply in replies]
        self.answers[route] = lambda _: left.pop(0) if len(left) > 1 else left[0]
