"""Which files there are under the root, how large, and which goes first. Bookkeeping only: no I/O.

The least recently used file goes first, over all namespaces. "Used" is a file's modification time, set on
purpose at each use, because it survives restarts and is seen by every engine that shares the root. A child is
always a little older than its parent, so that texts lose their ends before their beginnings. Files that were
set aside go before all others, those of named sessions after all others.

A time in the future (a clock that was wrong) is never trusted: such files count as used now, in their order.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from appliance.prompt_cache.folder import Found

STEP_NS = 1_000  # by so much a child is older than its parent; the finest that all our file systems keep

Rank = tuple[int, int, str]


@dataclass(slots=True)
class Entry:
    """One file. key: of a block or state of our own namespace, else None."""

    path: str
    nbytes: int
    used_ns: int
    namespace: str
    key: bytes | None = None
    damaged: bool = False
    named: bool = False

    @property
    def rank(self) -> Rank:
        return (0 if self.damaged else 2 if self.named else 1, self.used_ns, self.path)


@dataclass
class Ledger:
    """All files by path. Not thread-safe."""

    entries: dict[str, Entry] = field(default_factory=dict)
    nbytes: int = 0
    by_namespace: dict[str, int] = field(default_factory=dict)
    _heap: list[tuple[Rank, str]] = field(default_factory=list)
    _named: frozenset[str] = frozenset()

    def add(self, entry: Entry) -> None:
        self.discard(entry.path)
        entry.named = entry.path in self._named
        self.entries[entry.path] = entry
        self._count(entry, entry.nbytes)
        self._push(entry)

    def discard(self, path: str) -> Entry | None:
        entry = self.entries.pop(path, None)
        if entry is not None:
            self._count(entry, -entry.nbytes)
        return entry

    def used(self, path: str, used_ns: int) -> None:
        if (entry := self.entries.get(path)) and entry.used_ns < used_ns:
            entry.used_ns = used_ns
            self._push(entry)

    def name(self, paths: frozenset[str]) -> None:
        """These are of named sessions, and no others. They need not be there yet."""
        changed, self._named = self._named ^ paths, paths
        for path in changed:
            if entry := self.entries.get(path):
                entry.named = path in paths
                self._push(entry)

    def first(self) -> Entry | None:
        """What goes first; it stays in the ledger."""
        while self._heap:
            rank, path = self._heap[0]
            entry = self.entries.get(path)
            if entry is not None and entry.rank == rank:
                return entry
            heapq.heappop(self._heap)  # it went, or was used since
        return None

    def _push(self, entry: Entry) -> None:
        heapq.heappush(self._heap, (entry.rank, entry.path))
        if len(self._heap) > 4 * len(self.entries) + 1024:
            self._heap = [(entry.rank, entry.path) for entry in self.entries.values()]
            heapq.heapify(self._heap)

    def _count(self, entry: Entry, nbytes: int) -> None:
        self.nbytes += nbytes
        self.by_namespace[entry.namespace] = self.by_namespace.get(entry.namespace, 0) + nbytes


def clamp(found: Iterable[Found], now_ns: int) -> Iterator[tuple[Found, int]]:
    """Each file with the time it is to count as used at: never after `now_ns`, and in the order of before."""
    late = []
    for file in found:
        if file.used_ns <= now_ns:
            yield file, file.used_ns
        else:
            late.append(file)
    late.sort(key=lambda file: file.used_ns, reverse=True)
    for number, file in enumerate(late):
        yield file, now_ns - number * STEP_NS
