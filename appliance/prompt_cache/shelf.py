"""One namespace's files, one step at a time and without threads: write, read, evict, set aside, recover.

What goes wrong with a *file* costs that file: it is a miss. What goes wrong with the *disk* (full, read-only,
not ours, failing) turns the tier to "failed" with a sentence; writes are dropped until `probe` finds it well
again. Reading goes on meanwhile: a full disk can still be read.

Several engines share a root. Each counts for itself and counts anew now and then; each deletes what goes
first by the files' own times. That another was quicker to delete is no error.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal, TypeVar

from appliance.prompt_cache import folder, format, quota, sessions
from appliance.prompt_cache.family import Family
from appliance.prompt_cache.sessions import Session
from appliance.prompt_cache.trouble import Health

Why = Literal["evicted", "damaged", "failed", "missing"]
State = Literal["off", "ready", "failed"]
T = TypeVar("T")
Groups = Callable[[], Iterator[list[memoryview]]]
DAMAGED_FILES = 16
DAMAGED_SHARE = 100  # of the quota, one part in so many

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """Found by `read` from now on. nbytes: of its file."""

    key: bytes
    nbytes: int


@dataclass(frozen=True)
class Gone:
    """Not found any more, or not written at all ("failed")."""

    key: bytes
    why: Why


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
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._ledger = quota.Ledger()
        self._family = Family()
        self._sessions: dict[str, Session] = {}  # by their files' paths
        self._pin = False  # which files are of named sessions has to be found out anew
        self._news: list[Written | Gone] = []
        self._damaged = 0

    # --- figures ----------------------------------------------------------------------------------

    def use(self) -> DiskUse:
        with self._lock:
            state: State = "failed" if self.health.failed else "ready"
            return DiskUse(
                bytes=self._ledger.by_namespace.get(self.namespace, 0),
                damaged=self._damaged,
                state=state if self.quota else "off",
                why=self.health.why if self.quota else None,
                all_bytes=self._ledger.nbytes,
            )

    def news(self) -> list[Written | Gone]:
        with self._lock:
            news, self._news = self._news, []
            return news

    def tell(self, *news: Written | Gone) -> None:
        with self._lock:
            self._news.extend(news)

    def now_ns(self) -> int:
        """The time; that it went backwards makes the next count due, which sets the files' times right."""
        now = self._clock()
        if now < self._latest - 1.0:
            self.counted = False
        self._latest = now
        return int(now * 1e9)

    # --- whose is what ----------------------------------------------------------------------------

    def expect(self, record: format.Record) -> None:
        """This is about to be written."""
        with self._lock:
            self._family.add(record)

    def give_up(self, keys: Iterable[bytes]) -> None:
        """These are not going to be written after all."""
        with self._lock:
            for key in keys:
                self._forget(key, "failed")

    def chain(self, leaf: bytes) -> list[bytes]:
        """What is kept of a text, from its beginning to `leaf`."""
        with self._lock:
            return self._family.chain(leaf)

    def sessions(self) -> list[Session]:
        """The sessions of this namespace, from their files."""
        return list(sessions.read(self.folder, self.now_ns() / 1e9))

    # --- counting ---------------------------------------------------------------------------------

    def count(self) -> list[folder.Found]:
        """Look at every file under the root, of any namespace; those of ours are returned."""
        with self._counting:
            with self._lock:
                known = {path for path, entry in self._ledger.entries.items() if entry.key}
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
            named = {
                f"{namespace}/sessions/{session.file}": session
                for namespace in folder.namespaces(self.root)
                for session in sessions.read(namespace, now / 1e9)
            }
            with self._lock:
                for path, entry in self._ledger.entries.items():
                    if path in ledger.entries:
                        if entry.used_ns <= now:
                            ledger.used(path, entry.used_ns)  # perhaps not yet written to the file
                    elif path in known and entry.key:
                        self._forget(entry.key, "missing")
                    elif entry.key:
                        ledger.add(entry)  # written while we looked
                self._ledger = ledger
                self._sessions = named
                self._pin = True
                self.counted, self.written = True, 0
            return ours

    def records(self) -> list[tuple[format.Record, int, float]]:
        """Every readable record of this namespace, with its file's size and last use. Opens every file."""
        records = []
        for found in self.count():
            assert found.key is not None
            header = self._good(found.path, found.key, _header)
            if header is not None:
                with self._lock:
                    self._family.add(header.record)
                    entry = self._ledger.entries.get(found.path)
                used_ns = entry.used_ns if entry else found.used_ns
                records.append((header.record, found.nbytes, used_ns / 1e9))
        return records

    # --- reading ----------------------------------------------------------------------------------

    def load(self, key: bytes) -> format.Loaded | None:
        """One verified file; None where it is missing or no good, which is in the news then."""
        return self._good(self._path(key), key, format.read)

    def _good(self, path: str, key: bytes, read: Callable[[FileIO, int, str, bytes], T]) -> T | None:
        try:
            file, status = folder.open_ours(path)
            with file:
                try:
                    return read(file, status.st_size, self.namespace, key)
                except format.Damaged as error:
                    self._set_aside(path, key, status, str(error))
                except format.Newer:
                    self.tell(Gone(key, "missing"))  # stays for the version that wrote it
        except FileNotFoundError:
            self._lost(path, key, "missing")
        except folder.Foreign as error:
            log.warning("prompt cache: %s", error)
            self._lost(path, key, "missing")
        except OSError as error:
            self.health.fail(error)
            self.give_up([key])
        return None

    def _set_aside(self, path: str, key: bytes, status: os.stat_result, why: str) -> None:
        """Move a damaged file to where a person can look at it, and keep few of them."""
        log.warning("prompt cache: %s is set aside: %s", path, why)
        with self._lock:
            self._damaged += 1
        self._lost(path, key, "damaged")
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
            with self._lock:
                self._ledger.add(quota.Entry(target, status.st_size, now, self.namespace, damaged=True))
                kept = sorted(
                    (e for e in self._ledger.entries.values() if e.damaged and e.namespace == self.namespace),
                    key=lambda entry: entry.used_ns,
                )
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
        with self._lock:
            for path, used_ns in times.items():
                self._ledger.used(path, used_ns)
        return times

    def stamp(self, times: Mapping[str, int]) -> None:
        """Write the times of `used` to their files. Raises OSError."""
        for path, used_ns in times.items():
            self._set_time(path, used_ns)

    def _set_time(self, path: str, used_ns: int) -> None:
        try:
            os.utime(path, ns=(used_ns, used_ns), follow_symlinks=False)
        except FileNotFoundError:
            with self._lock:
                entry = self._ledger.discard(path)
                if entry is not None and entry.key is not None:
                    self._forget(entry.key, "missing")

    # --- writing ----------------------------------------------------------------------------------

    def write(self, job: Job, stop: Callable[[], bool]) -> None:
        """Make room for a block or state and write it. What becomes of it is in the news."""
        key = job.record.key
        path = self._path(key)
        with self._lock:
            here = self._ledger.entries.get(path)
        if here is not None:  # another engine wrote the same
            self.tell(Written(key, here.nbytes))
            return
        try:
            head, views = format.encode(job.record, job.payload, job.meta, self.namespace)
            nbytes = len(head) + sum(len(view) for view in views)
            self.health.needs = 2 * nbytes
            self.make_room(nbytes)
            now = self.now_ns()
            with self._lock:
                above = self._ledger.entries.get(self._path(job.record.parent))
            used_ns = min(now, above.used_ns - quota.STEP_NS) if above else now
            self._write(path, lambda: format.pieces(head, views), used_ns, stop)
        except (folder.Stopped, folder.Foreign, ValueError) as error:
            if not isinstance(error, folder.Stopped):
                log.warning("prompt cache: not written: %s", error)
            self.give_up([key])
        except OSError as error:
            self.health.fail(error)
            self.give_up([key])
        else:
            with self._lock:
                self._ledger.add(quota.Entry(path, nbytes, used_ns, self.namespace, key))
                self._news.append(Written(key, nbytes))
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
        session = body and sessions.decode(body, self.now_ns() / 1e9)
        with self._lock:
            self._sessions.pop(path, None)
            if session:
                self._sessions[path] = session
            self._pin = True
        return True

    def make_room(self, nbytes: int) -> None:
        """Delete what goes first until `nbytes` more fit the quota. Raises OSError."""
        while True:
            with self._lock:
                if self._ledger.nbytes + nbytes <= self.quota:
                    return
                if self._pin:
                    self._ledger.name(self._named())
                    self._pin = False
                if (entry := self._ledger.first()) is None:
                    return
            try:
                used_ns = os.lstat(entry.path).st_mtime_ns
            except FileNotFoundError:
                used_ns = 0
            if entry.used_ns < used_ns <= self.now_ns():
                with self._lock:  # another engine has used it since we counted
                    self._ledger.used(entry.path, used_ns)
                continue
            self._delete(entry.path, "evicted" if used_ns else "missing")

    def _named(self) -> set[str]:
        """Paths of what belongs to sessions in use."""
        since = self.now_ns() / 1e9 - sessions.PINNED_S
        return {
            folder.block_path(os.path.dirname(os.path.dirname(path)), key)
            for path, session in self._sessions.items()
            if session.used_at >= since
            for key in session.keys
        }

    def drop(self, keys: Sequence[bytes]) -> None:
        """Delete these; not in the news, for whoever drops knows. Raises OSError."""
        for key in keys:
            path = self._path(key)
            folder.remove(path)
            with self._lock:
                self._ledger.discard(path)
                self._family.discard(key)

    def _delete(self, path: str, why: Why = "evicted") -> None:
        folder.remove(path)
        with self._lock:
            entry = self._ledger.discard(path)
            if entry is not None and entry.key is not None:
                self._forget(entry.key, why)

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

    def _lost(self, path: str, key: bytes, why: Why) -> None:
        with self._lock:
            self._ledger.discard(path)
            self._forget(key, why)

    def _forget(self, key: bytes, why: Why) -> None:
        self._family.discard(key)
        self._news.append(Gone(key, why))


def _header(file: FileIO, size: int, namespace: str, key: bytes) -> format.Header:
    header = format.read_header(file, size, namespace)
    if header.record.key != key:
        raise format.Damaged("it is of another key")
    return header
