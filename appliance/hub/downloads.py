"""The parent's side of downloads: one child process per repo and revision, many who may ask for it.

`start` and `cancel` return at once and `observe` never waits: the loop calls them. A child that ends
without a last word is an error like any other, with the signal that ended it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import appliance
from appliance.hub.cache import Wanted
from appliance.hub.failure import CODES

State = Literal["downloading", "done", "failed", "cancelled"]
_GRACE = 2.0  # seconds between asking a child to end and ending it
_LAST_WORDS = 2000  # characters of its standard error that are kept


@dataclass(frozen=True)
class DownloadError:
    code: str
    message: str
    permanent: bool = False


@dataclass(frozen=True)
class Download:
    """Bytes; rate in bytes a second; eta in seconds. note: why it waits or tries again just now."""

    done: int = 0
    total: int = 0
    rate: float = 0.0
    eta: float | None = None
    state: State = "downloading"
    error: DownloadError | None = None
    file: str = ""
    note: str = ""


class Downloads:
    """Downloads by key. Use from one event loop only.

    on_change: called on that loop after any change; keep it short (set a flag). on_hub: the hub answered one
    of them (None), or failed it once more (why); streams that fail side by side count once.
    first_pause: seconds between the first two tries of one request, and the measure of the others. A key
    may be started several times with different repos (a model and its adapter): it is done when all are.
    """

    def __init__(
        self,
        cache: Path | None = None,
        on_change: Callable[[], None] | None = None,
        environment: Mapping[str, str] | None = None,
        on_hub: Callable[[Wanted, str | None], None] | None = None,
        first_pause: float | None = None,
    ) -> None:
        self._cache = cache
        self._first_pause = first_pause
        self._on_change = on_change or (lambda: None)
        self._on_hub = on_hub or (lambda _what, _why: None)
        self._environment = environment
        self._keys: dict[str, list[Wanted]] = {}
        self._jobs: dict[Wanted, _Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # also those whose job has a successor already

    def start(self, key: str, repo: str, revision: str | None = None, *, allow_code: bool = False) -> None:
        """Begin, or join a download that runs already. One that failed or was cancelled begins again."""
        what = Wanted(repo, revision, allow_code)
        wants = self._keys.setdefault(key, [])
        if what not in wants:
            wants.append(what)
        job = self._jobs.get(what)
        if job is None or job.over:
            job = _Job(what, self._command(what), self._env(), self._on_change, self._on_hub)
            self._jobs[what] = job
            self._tasks.add(job.task)
            job.task.add_done_callback(self._tasks.discard)
        self._on_change()

    def cancel(self, key: str) -> None:
        """Drop the key. A download that no other key wants is stopped; its bytes stay for the next start."""
        for what in self._keys.pop(key, []):
            if not any(what in wants for wants in self._keys.values()):
                self._jobs[what].cancel()
        self._on_change()

    def observe(self) -> dict[str, Download]:
        return {
            key: _together([self._jobs[what].view for what in wants]) for key, wants in self._keys.items()
        }

    async def wait(self, key: str) -> Download:
        """Until nothing of `key` runs any more. A caller that is cancelled leaves the download alone."""
        jobs = [self._jobs[what] for what in self._keys.get(key, [])]
        for job in jobs:
            await asyncio.shield(job.task)
        return _together([job.view for job in jobs])

    async def close(self) -> None:
        """Stop every child and wait until each is gone."""
        for job in self._jobs.values():
            job.cancel()
        await asyncio.gather(*self._tasks)

    def _command(self, what: Wanted) -> list[str]:
        command = [sys.executable, "-P", "-m", "appliance.hub.fetch", what.repo]
        command += ["--revision", what.revision] if what.revision else []
        command += ["--cache", str(self._cache)] if self._cache else []
        command += ["--first-pause", str(self._first_pause)] if self._first_pause else []
        return command + (["--allow-code"] if what.code else [])

    def _env(self) -> dict[str, str]:
        env = dict(os.environ if self._environment is None else self._environment)
        package = str(Path(appliance.__file__).resolve().parent.parent)
        return {
            **env,
            "PYTHONPATH": os.pathsep.join([package, *filter(None, [env.get("PYTHONPATH")])]),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


class _Job:
    """One child process and what it said last."""

    def __init__(
        self,
        what: Wanted,
        command: list[str],
        env: dict[str, str],
        on_change: Callable[[], None],
        on_hub: Callable[[Wanted, str | None], None],
    ) -> None:
        self.view = Download()
        self._what = what
        self._on_change = on_change
        self._on_hub = on_hub
        self._arrived = 0  # bytes over the wire
        self._failed = 0  # tries in a row without an answer, of the stream that had most
        self._stop = asyncio.Event()
        self.task = asyncio.create_task(self._run(command, env), name=f"download {what.repo}")

    @property
    def over(self) -> bool:
        """Ended, or about to: a new start needs a new process, which waits for this one's lock."""
        return self._stop.is_set() or self.view.state != "downloading"

    def cancel(self) -> None:
        self._stop.set()

    async def _run(self, command: list[str], env: dict[str, str]) -> None:
        try:
            child = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=env,
                start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
            )
        except OSError as error:
            self._finish("failed", DownloadError("interrupted", f"cannot start a download: {error.strerror}"))
            return
        ending = asyncio.create_task(self._end_when_asked(child))
        try:
            status, words = await self._listen(child)
        except (ValueError, KeyError, TypeError) as error:
            self._finish("failed", DownloadError("interrupted", f"the download spoke nonsense: {error}"))
            return
        finally:
            ending.cancel()
            if child.returncode is None:
                child.kill()
                await child.wait()
        if self.view.state == "downloading":
            if self._stop.is_set():
                self._finish("cancelled", None)
            else:
                self._finish("failed", DownloadError("interrupted", _ended(self._what, status, words)))

    async def _listen(self, child: asyncio.subprocess.Process) -> tuple[int, str]:
        """To the end: its exit status, and the end of its standard error."""
        assert child.stdout is not None
        assert child.stderr is not None
        complaint = asyncio.create_task(_tail(child.stderr))
        try:
            async for line in child.stdout:
                self._hear(line)
            return await child.wait(), await complaint
        finally:
            complaint.cancel()

    async def _end_when_asked(self, child: asyncio.subprocess.Process) -> None:
        await self._stop.wait()
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
            await asyncio.sleep(_GRACE)
            child.kill()

    def _hear(self, line: bytes) -> None:
        """One line of the child's. Raises ValueError, KeyError or TypeError where it is no event."""
        said: dict[str, Any] = json.loads(line)
        match said["event"]:
            case "start":
                self.view = replace(self.view, total=said["total"])
            case "progress":
                reading = {name: said[name] for name in ("done", "total", "rate", "eta", "file")}
                moving = reading["done"] > self.view.done
                self.view = replace(self.view, **reading, note="" if moving else self.view.note)
                if said["arrived"] > self._arrived:
                    self._arrived = said["arrived"]
                    self._answered()
            case "retry":
                self.view = replace(self.view, note=said["message"])
                if said["failed"] > self._failed:
                    self._unanswered(said["failed"], said["message"])
            case "waiting":
                self.view = replace(self.view, note=said["message"])
            case "done":
                self.view = replace(self.view, done=self.view.total)
                self._answered()
                self._finish("done", None)
            case "error":
                permanent = CODES.get(said["code"], False)
                if said["code"] == "network":
                    self._unanswered(self._failed + 1, said["message"])
                elif permanent:
                    self._answered()  # a clear no is an answer
                self._finish("failed", DownloadError(said["code"], said["message"], permanent))
        self._on_change()

    def _answered(self) -> None:
        self._failed = 0
        self._tell(None)

    def _unanswered(self, failed: int, why: str) -> None:
        self._failed = failed
        self._tell(why)

    def _tell(self, why: str | None) -> None:
        """Of the hub: not what a child says that was asked to end. Its last words are about tries of before,
        and would be taken for the outcome of the one that was let through since."""
        if not self._stop.is_set():
            self._on_hub(self._what, why)

    def _finish(self, state: State, error: DownloadError | None) -> None:
        self.view = replace(self.view, state=state, error=error, rate=0.0, eta=None, note="")
        self._on_change()


async def _tail(stream: asyncio.StreamReader) -> str:
    kept = ""
    while data := await stream.read(4096):
        kept = (kept + data.decode("utf-8", "replace"))[-_LAST_WORDS:]
    return kept


def _ended(what: Wanted, status: int, words: str) -> str:
    how = f"with {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    last = words.strip().splitlines()[-1:] or ["no message"]
    return f"the download of {what.repo} ended {how} ({last[0]}); what has arrived is kept"


def _together(views: list[Download]) -> Download:
    """Several downloads as one: sums, and the worst state."""
    if len(views) < 2:
        return views[0] if views else Download(state="cancelled")
    worst: list[State] = ["failed", "cancelled", "downloading", "done"]
    state = min((view.state for view in views), key=worst.index)
    rate = sum(view.rate for view in views)
    done, total = sum(view.done for view in views), sum(view.total for view in views)
    active = next((view for view in views if view.state == state), Download())
    eta = round((total - done) / rate, 1) if rate else None
    return Download(done, total, rate, eta, state, active.error, active.file, active.note)
