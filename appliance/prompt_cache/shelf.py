"""One namespace's files, one step at a time and without threads: write, read, evict, set aside, recover.

What goes wrong with a *file* costs that file: it is a miss. What goes wrong with the *disk* (full, read-only,
not ours, failing) turns the tier to "failed" with a sentence; writes are dropped until `probe` finds it well
again. Reading goes on meanwhile: a full disk can still be read.

Several engines share a root. Each counts for itself and counts anew now and then; each deletes what goes
first by the files' own times. That another was quicker to delete is no error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal, TypeVar

from appliance.prompt_cache import folder, format, quota, sessions
from appliance.prompt_cache.register import Gone, Register, Why, Written
from appliance.prompt_cache.sessions import Session
from appliance.prompt_cache.trouble import Health

State = Literal["off", "ready", "failed"]
T = TypeVar("T")
Groups = Callable[[], Iterator[list[memoryview]]]
DAMAGED_FILES = 16
DAMAGED_SHARE = 100  # of the quota, one part in so many

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiskUse:
    """bytes: of this namespace's files. damaged: set aside since start. all_bytes: of all namespaces.

    why: of "failed"; with "ready", what else the user should know. In words, without contents.
    """

    bytes: int
    damaged: int
    state: State
    why: str | None
    all_bytes: int = 0


@dataclass(frozen=True)
class Job:
    """A block or state on its way to disk. nbytes: of its data."""

    record: format.Record
    payload: format.Payload
    meta: Mapping[str, str]
    nbytes: int


class Shelf:
    """The files of one namespace. All methods may be called from any thread; `write` from one at a time."""

    def __init__(self, root: Path, namespace: str, about: Mapping[str, str], clock: Callable[[], float]):
        if not folder.NAMESPACE.fullmatch(namespace):
            raise ValueError(f"{namespace!r} is no name for a folder of the prompt cache")
        self.root, self.namespace, self.about = root, namespace, dict(about)
        self.folder = root / folder.LAYOUT / namespace
        self.health = Health(root)
        self.quota = 0
        self.counted = False  # the ledger has been filled
        self.written = 0  # bytes since then
        self._clock = clock
        self._latest = 0.0
        self._counting = threading.Lock()
        self.register = Register(namespace)

    # --- figures ----------------------------------------------------------------------------------

    def use(self) -> DiskUse:
        ours, all_bytes = self.register.nbytes()
        state: State = "failed" if self.health.failed else "ready"
        return DiskUse(
            bytes=ours,
            damaged=self.register.damaged,
            state=state if self.quota else "off",
            why=self.health.why if self.quota else None,
            all_bytes=all_bytes,
        )

    def now_ns(self) -> int:
        """The time; that it went backwards makes the next count due, which sets the files' times right."""
        now = self._clock()
        if now < self._latest - 1.0:
            self.counted = False
        self._latest = now
        return int(now * 1e9)

    # --- counting ---------------------------------------------------------------------------------

    def count(self) -> list[folder.Found]:
        """Look at every file under the root, of any namespace; those of ours are returned. Raises OSError."""
        with self._counting:
            self.counted, self.written = True, 0  # first: what makes the next one due may happen meanwhile
            before = self.register.paths()
            now = self.now_ns()
            ledger = quota.Ledger()
            ours = []
            for file, used_ns in quota.clamp(list(folder.walk(self.root)), now):
                key = file.key if file.namespace == self.namespace else None
                if used_ns != file.used_ns:
                    self._set_time(file.path, used_ns)
                if key is not None:
                    ours.append(file)
                ledger.add(
                    quota.Entry(file.path, file.nbytes, used_ns, file.namespace, key, damaged=file.damaged)
                )
            since = now / 1e9 - sessions.PINNED_S
            holding = {
                f"{namespace}/sessions/{session.file}": session
                for namespace in folder.namespaces(self.root)
                for session in sessions.read(namespace, now / 1e9)
                if session.used_at >= since
            }
            self.register.all_sessions(holding)
            self.register.replace(ledger, before, now)
            return ours

    def sessions(self) -> list[Session]:
        """The sessions of this namespace, from their files."""
        return list(sessions.read(self.folder, self.now_ns() / 1e9))

    def records(self) -> list[tuple[format.Record, int, float]]:
        """Every readable record of this namespace, with its file's size and last use. Opens every file."""
        records = []
        for found in self.count():
            assert found.key is not None
            header = self._good(found.path, found.key, _header)
            if header is not None:
                self.register.expect(header.record)
                entry = self.register.get(found.path)
                used_ns = entry.used_ns if entry else found.used_ns
                records.append((header.record, found.nbytes, used_ns / 1e9))
        return records

    # --- reading ----------------------------------------------------------------------------------

    def load(self, key: bytes) -> format.Loaded | None:
        """One verified file; None where it is missing or no good, which is in the news then."""
        return self._good(self._path(key), key, format.read)

    def announce(self, key: bytes) -> None:
        """This is to be read soon: the system may begin to fetch it, while another is checked."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError, folder.Foreign):  # `load` will find out and say so
                file, _ = folder.open_ours(self._path(key))
                with file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def _good(self, path: str, key: bytes, read: Callable[[FileIO, int, str, bytes], T]) -> T | None:
        try:
            file, status = folder.open_ours(path)
            with file:
                try:
                    return read(file, status.st_size, self.namespace, key)
                except format.Damaged as error:
                    self._set_aside(path, key, status, str(error))
                except format.Newer:
                    self.register.tell(Gone(key, "missing"))  # stays for the version that wrote it
        except FileNotFoundError:
            self.register.lost(path, key, "missing")
        except folder.Foreign as error:
            log.warning("prompt cache: %s", error)
            self.register.lost(path, key, "missing")
        except OSError as error:
            self.health.fail(error)
            self.register.give_up([key])
        return None

    def _set_aside(self, path: str, key: bytes, status: os.stat_result, why: str) -> None:
        """Move a damaged file to where a person can look at it, and keep few of them."""
        log.warning("prompt cache: %s is set aside: %s", path, why)
        self.register.damaged += 1
        self.register.lost(path, key, "damaged")
        aside = self.folder / "damaged"
        target = str(aside / os.path.basename(path))
        try:
            if os.lstat(path).st_ino != status.st_ino:
                return  # it has just been written anew
            folder.make_private(aside)
            folder.check_plain(target)
            os.rename(path, target)
            now = self.now_ns()
            os.utime(target, ns=(now, now))
            self.register.wrote(quota.Entry(target, status.st_size, now, self.namespace, damaged=True))
            kept = self.register.aside()
            total = sum(entry.nbytes for entry in kept)
            while len(kept) > DAMAGED_FILES or (len(kept) > 1 and total > self.quota // DAMAGED_SHARE):
                oldest = kept.pop(0)
                total -= oldest.nbytes
                self._delete(oldest.path)
        except FileNotFoundError:
            pass  # another engine set it aside
        except folder.Foreign as error:
            log.warning("prompt cache: %s", error)
        except OSError as error:
            self.health.fail(error)

    # --- recency ----------------------------------------------------------------------------------

    def used(self, keys: Sequence[bytes]) -> dict[str, int]:
        """These are used now, the first last; the times that `stamp` is to write."""
        now = self.now_ns()
        times = {self._path(key): now - n * quota.STEP_NS for n, key in enumerate(keys)}
        self.register.used(times)
        return times

    def stamp(self, times: Mapping[str, int]) -> None:
        """Write the times of `used` to their files. Raises OSError."""
        for path, used_ns in times.items():
            self._set_time(path, used_ns)

    def _set_time(self, path: str, used_ns: int) -> None:
        try:
            os.utime(path, ns=(used_ns, used_ns), follow_symlinks=False)
        except FileNotFoundError:
            self.register.gone(path, "missing")

    # --- writing ----------------------------------------------------------------------------------

    def write(self, job: Job, stop: Callable[[], bool]) -> None:
        """Make room for a block or state and write it. What becomes of it is in the news."""
        key = job.record.key
        path = self._path(key)
        here = self.register.get(path)
        if here is not None:  # another engine wrote the same
            self.register.tell(Written(key, here.nbytes))
            return
        try:
            head, views = format.encode(job.record, job.payload, job.meta, self.namespace)
            nbytes = len(head) + sum(len(view) for view in views)
            self.health.needs = 2 * nbytes
            self.make_room(nbytes)
            now = self.now_ns()
            above = self.register.get(self._path(job.record.parent))
            used_ns = min(now, above.used_ns - quota.STEP_NS) if above else now
            self._write(path, lambda: format.pieces(head, views), used_ns, stop)
        except (folder.Stopped, folder.Foreign, ValueError) as error:
            if not isinstance(error, folder.Stopped):
                log.warning("prompt cache: not written: %s", error)
            self.register.give_up([key])
        except OSError as error:
            self.health.fail(error)
            self.register.give_up([key])
        else:
            self.register.wrote(quota.Entry(path, nbytes, used_ns, self.namespace, key))
            self.written += nbytes

    def _write(
        self, path: str, groups: Groups, used_ns: int | None = None, stop: Callable[[], bool] = lambda: False
    ) -> None:
        try:
            folder.make_private(os.path.dirname(path))
            folder.write_whole(path, groups(), used_ns, stop)
        except FileNotFoundError:  # somebody deleted the whole cache under us, as they may
            self.prepare()
            folder.make_private(os.path.dirname(path))
            folder.write_whole(path, groups(), used_ns, stop)

    def save(self, name: str, body: bytes | None) -> bool:
        """Write a small file of the namespace's folder, or delete it (None). False: try again later."""
        path = str(self.folder / name)
        try:
            if body is None:
                folder.remove(path)
            else:
                self._write(path, lambda: iter([[memoryview(body)]]))
        except folder.Foreign as error:
            log.warning("prompt cache: not written: %s", error)
        except OSError as error:
            self.health.fail(error)
            return False
        self.register.session(path, None if body is None else sessions.decode(body, self.now_ns() / 1e9))
        return True

    def make_room(self, nbytes: int) -> None:
        """Delete what goes first until `nbytes` more fit the quota. Raises OSError."""
        while (entry := self.register.first(self.quota - nbytes)) is not None:
            try:
                used_ns = os.lstat(entry.path).st_mtime_ns
            except FileNotFoundError:
                used_ns = 0
            if entry.used_ns < used_ns <= self.now_ns():
                self.register.used({entry.path: used_ns})  # another engine used it since we counted
                continue
            self._delete(entry.path, "evicted" if used_ns else "missing")

    def drop(self, keys: Sequence[bytes]) -> None:
        """Delete these; not in the news, for whoever drops knows. Raises OSError."""
        for key in keys:
            path = self._path(key)
            folder.remove(path)
            self.register.gone(path, None)

    def _delete(self, path: str, why: Why = "evicted") -> None:
        folder.remove(path)
        self.register.gone(path, why)

    # --- the disk's health ------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the folders, private to this user. Raises OSError."""
        folder.make_root(self.root)
        notices = [folder.make_private(self.folder.parent), folder.make_private(self.folder)]
        notices += [folder.make_private(path) for path in folder.subfolders(self.folder)]
        self.health.notice = next(filter(None, notices), None)
        if self.health.notice:
            log.warning("prompt cache: %s", self.health.notice)
        body = json.dumps(self.about, indent=2).encode()
        folder.write_whole(str(self.folder / "about.json"), [[memoryview(body)]])

    def probe(self) -> None:
        """Try to write, where there is room for more than a trial. Raises OSError and Foreign."""
        self.prepare()
        self.health.check_room(self.folder)
        self.health.recover()
        self.counted = False  # others may have worked on it

    def _path(self, key: bytes) -> str:
        return folder.block_path(self.folder, key)


def _header(file: FileIO, size: int, namespace: str, key: bytes) -> format.Header:
    header = format.read_header(file, size, namespace)
    if header.record.key != key:
        raise format.Damaged("it is of another key")
    return header
