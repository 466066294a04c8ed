"""A downloading process as `python -m appliance.hub.fetch` is used: started, listened to, killed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0  # seconds; far more than any of these takes


class Fetch:
    """One child. `end()` waits for it and returns its last event."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "appliance.hub.fetch", *arguments],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events: list[dict[str, Any]] = []
        self._told = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._told:
                self.events.append(json.loads(line))
                self._told.notify_all()

    def until(self, event: str, **members: Any) -> dict[str, Any]:
        """The first event of that kind, once it has been told."""

        def found() -> dict[str, Any] | None:
            fits = (e for e in self.events if e["event"] == event and members.items() <= e.items())
            return next(fits, None)

        with self._told:
            if not self._told.wait_for(lambda: found() is not None, DEADLINE):
                raise AssertionError(f"no {event} {members} among {self.events}")
            result = found()
            assert result is not None
            return result

    def end(self) -> dict[str, Any]:
        status = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        assert self.process.stderr is not None
        self.complaints = self.process.stderr.read()
        self.close()
        last: dict[str, Any] = self.events[-1] if self.events else {}
        assert (status == 0) == (last.get("event") == "done"), (status, self.events, self.complaints)
        return last

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        self.close()

    def close(self) -> None:
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def fetch(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    """To the end; the last event."""
    return Fetch(list(arguments), environment).end()
