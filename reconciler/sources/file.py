"""The spec in a local file: read it, and notice each change of its content.

Editors save by renaming, deleting, truncating or through links, and events get lost. So an event
only means "look": the content is read and hashed, and modification times are never asked. A slow
poll looks too. What the file says is not judged here: an emptied file is content like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

from reconciler.gate import Refused
from reconciler.loader.tree import MAX_BYTES
from reconciler.scalars import closest
from reconciler.sources.places import Place, places

logger = logging.getLogger(__name__)

POLL_S = 5.0  # when events are lost
POLL_WITHOUT_EVENTS_S = 0.5  # when the system gives none
# An event is passed on when this long passed without another, or after GROUP_MS at most. The watcher's thread
# wakes at each step, events or not, and takes the interpreter: at 15 ms that was half of the idle parent's
# processor time, for a save that is told 40 ms sooner.
STEP_MS = 40
GROUP_MS = 80
SETTLE_S = 0.015  # content counts when it is the same twice, this far apart
SETTLE_TRIES = 6

# poll: time to look, with or without cause. edited: a name on the way was touched. moved: a watched folder
# itself was, and the system may have handed its inode on, so that no comparison would tell. other: neither.
Event = Literal["poll", "edited", "moved", "other"]

_EMPTY = hashlib.sha256(b"").hexdigest()


class SourceError(Exception):
    """There is no content to be had. The message names the path and says what to do."""


@dataclass(frozen=True)
class Content:
    """What the file holds. `path` is the file itself, after every link. refused: newer content, not taken."""

    data: bytes
    content_digest: str
    path: Path
    refused: Refused | None = None


class FileSource:
    """One file, by the path the user gave."""

    def __init__(self, path: Path, *, poll_s: float = POLL_S) -> None:
        self.path = path
        self._poll_s = poll_s
        self._last: str | None = None  # the mark of the last read

    def read(self) -> Content:
        """The content now. Raises SourceError.

        An empty file where there was content is most likely half of a save, between truncating and
        writing, so it is read once more, 5 ms later.
        """
        try:
            data = _read(self.path)
            if not data and self._last not in (None, _EMPTY):
                time.sleep(0.005)
                data = _read(self.path)
        except OSError as error:
            self._last = _explain(self.path, error)
            raise SourceError(self._last) from error
        self._last = hashlib.sha256(data).hexdigest()
        return Content(data, self._last, Path(os.path.realpath(self.path)))

    async def watch(self, on_change: Callable[[], None], stop: asyncio.Event) -> None:
        """Call `on_change` after each change of content, until `stop` is set.

        What counts as a change is a difference to the last `read()` before this call, so nothing is
        lost between the two. A file that appears, vanishes or becomes unreadable has changed as well.
        """
        seen = self._last if self._last is not None else await asyncio.to_thread(self._mark)
        while not stop.is_set():
            spots = await asyncio.to_thread(places, self.path)
            watcher = _watcher({str(spot.folder) for spot in spots})
            looked = float("-inf")  # look at once: something may have changed before the watcher was up
            try:
                while not stop.is_set():
                    due = time.monotonic() - looked >= self._poll_s
                    event: Event = "poll" if due else await self._event(watcher, spots, stop)
                    if event == "other":
                        continue
                    looked = time.monotonic()
                    mark = await self._settled(seen)
                    missed = event == "poll" and mark != seen
                    if mark != seen:
                        seen = mark
                        on_change()
                    if event == "moved" or missed or await asyncio.to_thread(places, self.path) != spots:
                        break  # what is watched is no longer what the path goes through: watch anew
            finally:
                if watcher is not None:
                    watcher.close()

    async def _event(self, watcher: RustNotify | None, spots: frozenset[Place], stop: asyncio.Event) -> Event:
        """Wait for what happens next in the watched folders."""
        if watcher is None:
            await _pause(stop, POLL_WITHOUT_EVENTS_S)
            return "poll"
        left = _Stop(stop)
        call = asyncio.ensure_future(
            asyncio.to_thread(watcher.watch, GROUP_MS, STEP_MS, int(self._poll_s * 1000), left)
        )
        try:
            result = await asyncio.shield(call)
        except asyncio.CancelledError:
            left.set()  # the thread returns within a step; the watcher may not be closed under it
            await asyncio.wait([call])
            raise
        if isinstance(result, str):
            return "poll" if result == "timeout" else "other"
        changed = {os.path.basename(path) for _, path in result}
        if changed & {spot.folder.name for spot in spots}:
            return "moved"
        return "edited" if changed & {spot.name for spot in spots} else "other"

    async def _settled(self, seen: str) -> str:
        """The mark of the content once it is the same twice. Unchanged content needs no second look."""
        mark = await asyncio.to_thread(self._mark)
        for _ in range(SETTLE_TRIES):
            if mark == seen:
                break
            await asyncio.sleep(SETTLE_S)
            again = await asyncio.to_thread(self._mark)
            if again == mark and again != _EMPTY:
                break
            mark = again
        return mark

    def _mark(self) -> str:
        """The content's hash, or in words why there is none."""
        try:
            return hashlib.sha256(_read(self.path)).hexdigest()
        except OSError as error:
            return _explain(self.path, error)


class _Stop:
    """What the watcher's thread asks at each step: stop for the caller's reason, or for ours."""

    def __init__(self, outer: asyncio.Event) -> None:
        self._outer = outer
        self._own = False

    def set(self) -> None:
        self._own = True

    def is_set(self) -> bool:
        return self._own or self._outer.is_set()


def _watcher(folders: set[str]) -> RustNotify | None:
    """A watcher of these folders, not of what lies below them; None where the system has none to give."""
    if not folders:
        return None
    try:
        return RustNotify(sorted(folders), False, False, 0, False, False)
    except (OSError, WatchfilesRustInternalError) as error:
        logger.warning(
            "cannot watch %s (%s); looking every %s s", sorted(folders), error, POLL_WITHOUT_EVENTS_S
        )
        return None


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def _read(path: Path) -> bytes:
    """All bytes of a regular file. Opening must not block, so that a pipe is refused and not waited for."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ENOTSUP, "is no regular file")
        if status.st_size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"has {status.st_size} bytes")
        parts = []
        while part := os.read(handle, MAX_BYTES + 1):
            parts.append(part)
            if sum(map(len, parts)) > MAX_BYTES:
                raise OSError(errno.EFBIG, f"has more than {MAX_BYTES} bytes")
        return b"".join(parts)
    finally:
        os.close(handle)


def _explain(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        if os.path.islink(path):
            target = os.readlink(path)
            return (
                f"{path} is a link to {target}, which is not there; restore it, or point the link elsewhere"
            )
        if not os.path.isdir(path.parent):
            return f"{path} is not there: {path.parent} is no folder; name the file with -f, or set LMX_FILE"
        near = closest(path.name, os.listdir(path.parent) if os.access(path.parent, os.R_OK) else [])
        hint = f"did you mean {near!r}?" if near else "'lmx init' writes one to start from"
        return f"{path} is not there; {hint}"
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder; name the file in it, like {path / 'lmx.yaml'}"
    if isinstance(error, PermissionError):
        return f"{path} may not be read by this user; try: chmod u+r {path}"
    if error.errno == errno.EFBIG:
        return f"{path} {error.strerror}; at most {MAX_BYTES} are read. Is it the right file?"
    if error.errno == errno.ELOOP:
        return f"{path} is a link that leads back to itself; point it at a file"
    return f"{path} cannot be read: {error.strerror or error}; name a regular file"
