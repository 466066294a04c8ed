"""What one engine knows of the cache's files: the ledger, which block follows which, sessions, news.

One lock, held for moments only, because the decode thread asks here too: what takes time is worked out beside
it and put in at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from appliance.prompt_cache import folder, quota
from appliance.prompt_cache.family import Family
from appliance.prompt_cache.format import Record
from appliance.prompt_cache.sessions import Session

Why = Literal["evicted", "damaged", "failed", "missing"]


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


class Register:
    """Safe from any thread. Paths are of files, keys of our own namespace's blocks and states."""

    def __init__(self, namespace: str) -> None:
        self.damaged = 0  # set aside since start
        self._namespace = namespace
        self._lock = threading.Lock()
        self._ledger = quota.Ledger()
        self._family = Family()
        self._holds: dict[str, tuple[float, frozenset[str]]] = {}  # session's file -> last use, its files
        self._stale = False  # the ledger does not know yet what sessions hold
        self._news: list[Written | Gone] = []

    # --- news -------------------------------------------------------------------------------------

    def news(self) -> list[Written | Gone]:
        with self._lock:
            news, self._news = self._news, []
            return news

    def tell(self, *news: Written | Gone) -> None:
        with self._lock:
            self._news.extend(news)

    def give_up(self, keys: Iterable[bytes]) -> None:
        """These are not going to be written after all."""
        with self._lock:
            for key in keys:
                self._forget(key, "failed")

    # --- files ------------------------------------------------------------------------------------

    def nbytes(self) -> tuple[int, int]:
        """Of our namespace, and of all."""
        with self._lock:
            return self._ledger.by_namespace.get(self._namespace, 0), self._ledger.nbytes

    def get(self, path: str) -> quota.Entry | None:
        return self._ledger.entries.get(path)

    def wrote(self, entry: quota.Entry) -> None:
        with self._lock:
            self._ledger.add(entry)
            if entry.key is not None:
                self._news.append(Written(entry.key, entry.nbytes))

    def gone(self, path: str, why: Why | None) -> None:
        """A file is no more. why: for the news; None: not in the news."""
        with self._lock:
            entry = self._ledger.discard(path)
            if entry is None or entry.key is None:
                return
            if why is None:
                self._family.discard(entry.key)
            else:
                self._forget(entry.key, why)

    def lost(self, path: str, key: bytes, why: Why) -> None:
        """As `gone`, of a file that was looked for whether or not it is known."""
        with self._lock:
            self._ledger.discard(path)
            self._forget(key, why)

    def used(self, times: Mapping[str, int]) -> None:
        with self._lock:
            for path, used_ns in times.items():
                self._ledger.used(path, used_ns)

    def first(self, most: int) -> quota.Entry | None:
        """What goes first, if there is more than `most` bytes."""
        if self._ledger.nbytes > most:
            self._hold()
        with self._lock:
            return self._ledger.first() if self._ledger.nbytes > most else None

    def aside(self) -> list[quota.Entry]:
        """Our damaged files, the oldest first."""
        with self._lock:
            entries = list(self._ledger.entries.values())
        ours = [entry for entry in entries if entry.damaged and entry.namespace == self._namespace]
        return sorted(ours, key=lambda entry: entry.used_ns)

    def paths(self) -> dict[str, quota.Entry]:
        """All that is known now."""
        with self._lock:
            return dict(self._ledger.entries)

    def replace(self, counted: quota.Ledger, before: Mapping[str, quota.Entry], now_ns: int) -> None:
        """Take over a new count. before: `paths()` from before it began."""
        missing = []
        for path, entry in before.items():
            if path not in counted.entries:
                missing.append(entry)
            elif entry.used_ns <= now_ns:
                counted.used(path, entry.used_ns)  # perhaps not yet written to the file
        with self._lock:
            for path in self._ledger.entries.keys() - before.keys():  # written while we looked
                counted.add(self._ledger.entries[path])
            for path in before.keys() - self._ledger.entries.keys():  # gone while we looked
                counted.discard(path)
            for entry in missing:
                if entry.key is not None and entry.path in self._ledger.entries:
                    self._forget(entry.key, "missing")
            self._ledger = counted
            self._stale = True

    # --- texts and sessions -----------------------------------------------------------------------

    def expect(self, record: Record) -> None:
        """This is there, or about to be written."""
        with self._lock:
            self._family.add(record)

    def chain(self, leaf: bytes) -> list[bytes]:
        with self._lock:
            return self._family.chain(leaf)

    def session(self, file: str, session: Session | None) -> None:
        """A session's file was written or deleted."""
        with self._lock:
            if session is None:
                self._holds.pop(file, None)
            else:
                self._holds[file] = _held(file, session)
            self._stale = True

    def all_sessions(self, found: Mapping[str, Session]) -> None:
        """By their files, of all namespaces: those in use."""
        holds = {file: _held(file, session) for file, session in found.items()}
        with self._lock:
            self._holds = holds
            self._stale = True

    def _hold(self) -> None:
        with self._lock:
            if not self._stale:
                return
            self._stale = False
            held = [paths for _, paths in self._holds.values()]
        named = frozenset().union(*held)
        with self._lock:
            self._ledger.name(named)

    def _forget(self, key: bytes, why: Why) -> None:
        self._family.discard(key)
        self._news.append(Gone(key, why))


def _held(file: str, session: Session) -> tuple[float, frozenset[str]]:
    namespace = Path(file).parent.parent
    return session.used_at, frozenset(folder.block_path(namespace, key) for key in session.keys)
