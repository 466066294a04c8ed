"""What is on its way to disk: not before it is computed, not before its parents, and no more than needed.

Whole blocks go as soon as they are computed. The end of a text waits for a second: a conversation that goes
on at once replaces it. The writer gets the arrays' own memory, so nothing is copied for it, and what it holds
counts as the cache's memory until it is done.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.engine import blocks
from appliance.engine.blocks import Piece
from appliance.prompt_cache.format import Kind, Record
from appliance.prompt_cache.index import Entry, Index
from appliance.prompt_cache.register import Written
from appliance.prompt_cache.store import Store

COMPUTED = 3  # turns after which what was launched is done: a step launched after it has been read


@dataclass(frozen=True, slots=True, eq=False)
class Due:
    entry: Entry
    piece: Piece
    turn: int  # computed by then
    at: float  # seconds: not before


class Outgoing:
    """Only for the decode thread."""

    def __init__(self, index: Index, store: Store) -> None:
        self._index = index
        self._store = store
        self._turn = 0
        self._due: dict[bytes, Due] = {}
        self._sent: dict[bytes, tuple[Entry, Piece]] = {}
        self._stale: dict[bytes, bytes] = {}  # the block to be written -> the one that it makes superfluous

    @property
    def ready(self) -> bool:
        return self._store.use().state == "ready"

    @property
    def nbytes(self) -> int:
        """Bytes that are held for the writer only."""
        due = sum(due.piece.nbytes for due in self._due.values() if due.entry.payload is None)
        return due + sum(piece.nbytes for entry, piece in self._sent.values() if entry.payload is None)

    def add(self, entry: Entry, piece: Piece, at: float = 0.0, stale: bytes | None = None) -> None:
        """Write this, not before `at`; once that is done, `stale` may go."""
        entry.leaving = True
        self._due[entry.key] = Due(entry, piece, self._turn + COMPUTED, at)
        if stale is not None:
            self._stale[entry.key] = stale

    def turn(self, now: float, still: bool = False) -> None:
        """Hand on what is due, and hear what became of the rest. still: nothing runs, so all is computed."""
        self._turn += 1
        self.hear()
        for due in [due for due in self._due.values() if due.at <= now]:
            if (still or due.turn <= self._turn) and not self._hand(due):
                return  # the writer has enough

    def finish(self) -> None:
        """The engine ends: hand on everything."""
        self.turn(float("inf"), still=True)

    def drop(self, keys: list[bytes]) -> None:
        """These are forgotten, written or not."""
        for key in keys:
            self._due.pop(key, None)
            self._sent.pop(key, None)
        self._store.drop(keys)

    def hear(self) -> None:
        """Take in what the disk has done."""
        for news in self._store.news():
            self._sent.pop(news.key, None)
            entry = self._index.get(news.key)
            if not isinstance(news, Written):
                if entry is not None:
                    self._index.lost(entry)
                continue
            if entry is None:
                self._store.drop([news.key])  # replaced or forgotten meanwhile
            else:
                self._index.written(entry, news.nbytes)
            if (stale := self._stale.pop(news.key, None)) is not None:
                self.drop([stale])

    def _hand(self, due: Due) -> bool:
        """Give it to the writer, after those before it that are not written; False: it takes no more."""
        self._due.pop(due.entry.key, None)
        if not due.entry.alive:
            return True
        chain = [due]
        while (parent := chain[-1].entry.parent) is not None and not self._known(parent):
            waiting = self._due.pop(parent.key, None)
            if waiting is None and parent.payload is not None:  # cut while the disk was failing
                waiting = Due(parent, parent.payload, due.turn, due.at)
            if waiting is None:
                self._index.lost(due.entry)  # without its parent nobody would find it
                return True
            chain.append(waiting)
        while chain:
            if not self._put(chain[-1]):
                break
            chain.pop()
        for left in chain:
            if self.ready and left.entry.payload is not None:
                self._due[left.entry.key] = left  # too much waits: it is in memory, and there is time
            else:
                self._index.lost(left.entry)
        return not chain

    def _known(self, parent: Entry) -> bool:
        return parent.kind == "root" or parent.disk > 0 or parent.key in self._sent

    def _put(self, due: Due) -> bool:
        entry = due.entry
        assert entry.parent is not None
        kind: Kind = "state" if entry.kind == "state" else "block"
        record = Record(entry.key, entry.parent.key, kind, entry.start, entry.tokens, entry.scope)
        payload, meta = blocks.to_host(due.piece)
        if not self._store.put(record, payload, meta):
            return False
        entry.leaving = True
        self._sent[entry.key] = entry, due.piece
        return True
