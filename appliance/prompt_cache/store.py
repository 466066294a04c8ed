"""The disk tier: one namespace under a root that several engines share, with a reader and a writer thread.

Nothing here makes the caller wait, except `scan` and `close`. Writes, times of use, deletions and small files
go to one writer thread, which works in pieces of 1 MiB so that the interpreter's lock is free nearly all
the time, and which gives way to others on Linux (its own niceness). Reads go to one reader thread, request by
request in order of arrival. What became of files is told by `news`.

Nothing is fsynced: a file torn by a power cut is found by its checksum, and costs a miss.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from appliance.prompt_cache import format
from appliance.prompt_cache.folder import Foreign
from appliance.prompt_cache.format import Loaded, Payload, Record
from appliance.prompt_cache.register import Gone, Written
from appliance.prompt_cache.sessions import Session
from appliance.prompt_cache.shelf import DiskUse, Job, Shelf

WAITING_MOST = 256 * 2**20  # bytes of blocks that wait to be written
RETRY_S = 60.0  # after the disk failed
COUNT_S = 600.0  # between two counts of all files, for what other engines did
COUNT_SHARE = 20  # or when we wrote one part in so many of the quota
NICENESS = 5
AHEAD = 4  # files that the system is asked to fetch while one is read and checked

Done = Callable[[dict[bytes, Loaded | None]], None]
log = logging.getLogger(__name__)


class Store:
    """See the module. root: `cache.path`. namespace: `keys.namespace`. about: for people, in about.json.

    It is off until `configure`. clock and retry_s are for tests.
    """

    def __init__(
        self,
        root: Path,
        namespace: str,
        about: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.time,
        retry_s: float = RETRY_S,
    ) -> None:
        self.about = dict(about)
        self.namespace = namespace
        self._shelf = Shelf(root, namespace, about, clock)
        self._retry_s = retry_s
        self._wake = threading.Condition()
        self._pending: dict[bytes, Job] = {}  # in order of arrival
        self._waiting = 0  # bytes of them, and of the one being written
        self._stamps: dict[str, int] = {}
        self._drops: list[bytes] = []
        self._saves: dict[str, tuple[float, Callable[[], bytes | None] | None]] = {}
        self._shrink = False
        self._retry_at: float | None = None
        self._count_at = 0.0
        self._closing: float | None = None
        self._reads: queue.SimpleQueue[tuple[Sequence[bytes], Done] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, name="prompt-cache-writer", daemon=True)
        self._reader = threading.Thread(target=self._read_all, name="prompt-cache-reader", daemon=True)

    def configure(self, quota: int) -> None:
        """quota: bytes over all of the root. 0: nothing is read or written, and files stay."""
        with self._wake:
            shelf = self._shelf
            self._shrink = self._shrink or quota < shelf.quota
            if quota and not shelf.quota:
                shelf.counted = False  # others may have worked on it
            shelf.quota = quota
            if not quota:
                self._abandon()
            elif not self._writer.ident and self._closing is None:
                self._writer.start()
            self._wake.notify()

    def scan(self) -> list[tuple[Record, int, float]]:
        """What this namespace holds: record, bytes of its file, last use. Reads every header: slow."""
        if not self._shelf.quota:
            return []
        try:
            self._shelf.prepare()
            return self._shelf.records()
        except (OSError, Foreign) as error:
            self._shelf.health.fail(error)
            return []
        finally:
            with self._wake:
                self._wake.notify()  # of a disk that failed, it is the writer that tries again

    def put(self, record: Record, payload: Payload, meta: Mapping[str, str]) -> bool:
        """Write this when there is time. False: off, failed, too large, or too much waits already.

        Raises ValueError where record and payload contradict themselves.
        """
        nbytes = format.check(record, payload, self.namespace)
        with self._wake:
            if self._closing is not None or self._shelf.health.failed or nbytes > self._shelf.quota:
                return False
            if record.key in self._pending:
                return True
            if self._waiting and self._waiting + nbytes > WAITING_MOST:
                return False
            self._pending[record.key] = Job(record, payload, dict(meta), nbytes)
            self._waiting += nbytes
            self._shelf.register.expect(record)
            self._wake.notify()
            return True

    def read(self, keys: Sequence[bytes], done: Done) -> None:
        """Call `done` on the reader thread with what was found under each key.

        None: missing or damaged, and in the news as Gone; or the tier is off.
        """
        with self._wake:
            closed = self._closing is not None
            if not closed and not self._reader.ident:
                self._reader.start()
        if closed:
            done(dict.fromkeys(keys))
        else:
            self._reads.put((list(keys), done))

    def touch(self, keys: Sequence[bytes]) -> None:
        """These are used now. From the root on: each counts as a little older than the one before."""
        if not self._shelf.quota:
            return
        stamps = self._shelf.used(keys)
        with self._wake:
            self._stamps.update(stamps)
            self._wake.notify()

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget these, written or not. They are not in the news for it."""
        with self._wake:
            for key in keys:
                if job := self._pending.pop(key, None):
                    self._waiting -= job.nbytes
            if self._shelf.quota:
                self._drops.extend(keys)
                self._wake.notify()

    def save(self, name: str, make: Callable[[], bytes | None] | None, within: float) -> None:
        """Write (or delete: None) a small file of the namespace's folder, in `within` seconds at the latest.

        A later call replaces what an earlier one is to write, not its hour. `make` runs on the writer thread.
        """
        with self._wake:
            hour = time.monotonic() + within
            if name in self._saves:
                hour = min(hour, self._saves[name][0])
            self._saves[name] = (hour, make)
            self._wake.notify()

    def chain(self, leaf: bytes) -> list[bytes]:
        """Keys of what is kept of a text, from its beginning to `leaf`; what is not kept is left out."""
        return self._shelf.register.chain(leaf)

    def sessions(self) -> list[Session]:
        """The named sessions of this namespace. Reads their files: not for a hot path."""
        return self._shelf.sessions() if self._shelf.quota else []

    def news(self) -> list[Written | Gone]:
        """What became of files since the last call."""
        return self._shelf.register.news()

    def use(self) -> DiskUse:
        return self._shelf.use()

    def close(self, seconds: float) -> None:
        """Write what is waiting, for so long at most, and end the threads. Reads not begun find nothing."""
        with self._wake:
            self._closing = time.monotonic() + seconds
            self._wake.notify()
        self._reads.put(None)
        if self._writer.ident:
            self._writer.join(seconds + 1.0)
        if self._reader.ident:
            self._reader.join(1.0)

    # --- the writer's thread ----------------------------------------------------------------------

    def _write_all(self) -> None:
        give_way()
        try:
            while self._work():
                pass
        except BaseException:
            self._shelf.health.break_down()
            with self._wake:
                self._abandon()
            raise

    def _work(self) -> bool:
        """One thing; False: closed. Its own frame, so that nothing of what was written lives on after it."""
        task = self._await()
        if task is None:
            return False
        try:
            task()
        except (OSError, Foreign) as error:
            self._shelf.health.fail(error)
        return True

    def _await(self) -> Callable[[], object] | None:
        """The next thing to do; None once closed."""
        with self._wake:
            while True:
                task = self._next(time.monotonic())
                if task is not None:
                    return task
                if self._closing is not None:
                    self._abandon()
                    return None
                self._wake.wait(self._patience(time.monotonic()))

    def _next(self, now: float) -> Callable[[], object] | None:
        """What to do now, if anything. Small things first, for a block may take long."""
        shelf = self._shelf
        if not shelf.quota or self._late():
            return None
        if shelf.health.failed:
            if self._retry_at is None:
                self._retry_at = now + self._retry_s
                self._abandon()
            if now < self._retry_at or self._closing is not None:
                return None
            self._retry_at = None
            return shelf.probe
        if self._drops:
            drops, self._drops = self._drops, []
            return lambda: shelf.drop(drops)
        if self._stamps:
            stamps, self._stamps = self._stamps, {}
            return lambda: shelf.stamp(stamps)
        for name, (hour, _) in self._saves.items():
            if hour <= now or self._closing is not None:
                return lambda: self._save(name)
        if not shelf.counted or now >= self._count_at or shelf.written * COUNT_SHARE > shelf.quota:
            self._count_at = now + COUNT_S
            return self._count
        if self._shrink:
            self._shrink = False
            return lambda: shelf.make_room(0)
        if self._pending:
            job = self._pending.pop(next(iter(self._pending)))
            return lambda: self._write(job)
        return None

    def _patience(self, now: float) -> float | None:
        if not self._shelf.quota:
            return None
        if self._shelf.health.failed:
            return None if self._retry_at is None else self._retry_at - now
        return min([self._count_at, *(hour for hour, _ in self._saves.values())]) - now

    def _count(self) -> None:
        self._shelf.prepare()
        self._shelf.count()

    def _save(self, name: str) -> None:
        with self._wake:
            order = self._saves.pop(name)  # first: a later order comes with an hour of its own
        make = order[1]
        if not self._shelf.save(name, make and make()):
            with self._wake:
                self._saves.setdefault(name, order)

    def _write(self, job: Job) -> None:
        try:
            self._shelf.write(job, lambda: self._late() or not self._shelf.quota)
        finally:
            with self._wake:
                self._waiting -= job.nbytes

    def _late(self) -> bool:
        return self._closing is not None and time.monotonic() >= self._closing

    def _abandon(self) -> None:
        """Give up what waits to be written. Called with the lock held."""
        self._shelf.register.give_up(self._pending)
        self._waiting -= sum(job.nbytes for job in self._pending.values())
        self._pending.clear()

    # --- the reader's thread ----------------------------------------------------------------------

    def _read_all(self) -> None:
        while (request := self._reads.get()) is not None:
            self._answer(*request)
            del request  # what was read is the receiver's now, and must not live until the next request

    def _answer(self, keys: Sequence[bytes], done: Done) -> None:
        found: dict[bytes, Loaded | None] = {}
        for number, key in enumerate(keys):
            if not self._shelf.quota or self._closing is not None:
                found[key] = None
                continue
            for soon in keys[1:AHEAD] if number == 0 else keys[number + AHEAD - 1 : number + AHEAD]:
                self._shelf.announce(soon)
            found[key] = self._shelf.load(key)
        if self._shelf.health.failed:
            with self._wake:
                self._wake.notify()  # the writer tries the disk again in a while
        try:
            done(found)
        except Exception:  # the receiver's fault costs this request, not all that follow
            log.exception("prompt cache: what was read could not be handed over")


def give_way() -> None:
    """Let other threads go first. Only Linux has a niceness for one thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        now = os.getpriority(os.PRIO_PROCESS, thread)  # to be nicer than we are is never refused
        os.setpriority(os.PRIO_PROCESS, thread, min(now + NICENESS, 19))
