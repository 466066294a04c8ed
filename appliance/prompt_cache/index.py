"""Which texts are kept, as a tree of blocks, and which gives way next. Pure: no clock, no files, no MLX.

    root of a scope ── block 0..255 ── block 256..511 ── tail 512..600
                            │                 └── state at 530
                            └── block 256..511 of a fork

A *block* holds the tokens between two points of a grid of 256; only whole ones have others behind them. A
*state* hangs on the last whole block before it. Brothers are kept in the order of their bytes: whatever a
text shares with any of thousands, it shares with one of its two neighbours there, so a look-up is a few
comparisons in C per block. No brother is the beginning of another: the longer one has taken its place.

What is kept for an entry (its *payload*) is opaque here; it is in memory, on disk, in both or, for a moment,
on its way from one to the other. An entry with neither, and with nothing behind it, is gone.

What gives way in memory: the ends of texts before their beginnings, least recently used first, and what a
session has pinned last. A heap holds the ends; a rank that changed since is noticed when its turn comes, so
that using an entry costs nothing.
"""

from __future__ import annotations

import heapq
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

import numpy as np

from appliance.prompt_cache import keys
from appliance.prompt_cache.format import Record
from appliance.prompt_cache.keys import BLOCK

Kind = Literal["root", "block", "state"]
WIDTH = 4  # bytes of a token id
Rank = tuple[bool, float, int]


class Entry:
    """One block or state. `tokens`: little-endian uint32; a state's reach from `start` to its position."""

    __slots__ = (
        "alive",
        "children",
        "disk",
        "key",
        "kind",
        "leaving",
        "memory",
        "parent",
        "payload",
        "pins",
        "queued",
        "scope",
        "start",
        "states",
        "tokens",
        "used",
        "warm",
    )

    def __init__(self, key: bytes, kind: Kind, parent: Entry | None, tokens: bytes, scope: str) -> None:
        self.key = key
        self.kind = kind
        self.parent = parent
        self.scope = scope
        self.start: int = 0 if parent is None else parent.end
        self.tokens = tokens
        self.children: list[Entry] = []  # blocks, by their tokens' bytes
        self.states: dict[bytes, Entry] | None = None  # by tokens
        self.payload: Any = None
        self.memory = 0  # bytes of the payload
        self.disk = 0  # bytes of the file
        self.leaving = False  # the writer has it, and has not said yet how it went
        self.used = 0.0  # seconds, or any number that grows
        self.pins = 0  # sessions that hold it
        self.warm = 0  # entries behind it that are in memory
        self.queued = False
        self.alive = True

    @property
    def end(self) -> int:
        return self.start + len(self.tokens) // WIDTH

    @property
    def whole(self) -> bool:
        return self.kind == "root" or (self.kind == "block" and len(self.tokens) == BLOCK * WIDTH)

    @property
    def path(self) -> list[Entry]:
        """From the first block of the text to this entry."""
        found, node = [], self
        while node.parent is not None:
            found.append(node)
            node = node.parent
        return found[::-1]

    @property
    def usable(self) -> bool:
        """It can be restored."""
        return self.payload is not None or self.disk > 0

    @property
    def kept(self) -> bool:
        """It can be restored, now or as soon as it is written."""
        return self.usable or self.leaving

    def nearest(self, tokens: bytes, usable: Callable[[Entry], bool]) -> tuple[Entry | None, int]:
        """The block behind this one that begins most like `tokens`, and how many tokens they share.

        The further away in the order, the less is shared: of each side the first one that is usable counts.
        """
        best, most = None, 0
        at = bisect_left(self.children, tokens, key=spelling)
        for side in (range(at - 1, -1, -1), range(at, len(self.children))):
            child = next((self.children[place] for place in side if usable(self.children[place])), None)
            if child is not None and (shared := common(child.tokens, tokens)) > most:
                best, most = child, shared
        return best, most

    def state_of(self, tokens: bytes, usable: Callable[[Entry], bool]) -> Entry | None:
        """The deepest state here that these tokens lead to."""
        for width in sorted({len(held) for held in self.states or ()}, reverse=True):
            if width <= len(tokens) and (state := (self.states or {}).get(tokens[:width])) is not None:
                if usable(state):
                    return state
        return None


@dataclass(frozen=True)
class Found:
    """What can be restored: so many tokens. blocks: from the text's beginning, the last perhaps in part."""

    tokens: int = 0
    blocks: Sequence[Entry] = field(default_factory=tuple)
    state: Entry | None = None

    @property
    def entries(self) -> list[Entry]:
        return [*self.blocks, self.state] if self.state is not None else list(self.blocks)


class Index:
    """`stateful`: the model resumes only where a state is; otherwise anywhere."""

    def __init__(self, namespace: str, stateful: bool) -> None:
        self.stateful = stateful
        self.memory = 0  # bytes
        self.disk = 0
        self._namespace = namespace
        self._roots: dict[str, Entry] = {}
        self._entries: dict[bytes, Entry] = {}
        self._heap: list[tuple[Rank, int, Entry]] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Entry | None:
        return self._entries.get(key)

    def entries(self) -> Iterable[Entry]:
        return self._entries.values()

    def root(self, scope: str) -> Entry:
        if scope not in self._roots:
            self._roots[scope] = Entry(keys.root(self._namespace, scope), "root", None, b"", scope)
        return self._roots[scope]

    def fill(self, records: Iterable[tuple[Record, int, float]]) -> list[bytes]:
        """Take in what a scan found: record, bytes of its file, last use. Keys of files that are of no use.

        Those are blocks that begin another one, and what has lost a block before it.
        """
        useless = []
        order = sorted(records, key=lambda found: (found[0].start, found[0].kind, len(found[0].tokens)))
        for record, nbytes, used in order:
            root = self.root(record.scope)
            parent = root if record.parent == root.key else self.get(record.parent)
            if parent is None or not parent.whole or parent.end != record.start:
                useless.append(record.key)
                continue
            if record.kind == "state":
                entry, stale = self.state(parent, record.tokens), None
            else:
                entry, stale = self.block(parent, record.tokens)
            if stale is not None:
                useless.append(stale)
            if entry.key != record.key:
                useless.append(record.key)
                continue
            self.written(entry, nbytes)
            entry.used = used
        return useless

    # -- finding -------------------------------------------------------------------------------------

    def match(
        self, scope: str, text: bytes, limit: int, usable: Callable[[Entry], bool] = lambda e: e.usable
    ) -> Found:
        """The longest beginning of `text` that can be restored, of at most `limit` tokens."""
        if scope not in self._roots:
            return Found()
        path = self.path(scope, text, limit, usable)
        if self.stateful:
            for count_ in range(len(path), -1, -1):
                node = path[count_ - 1] if count_ else self._roots[scope]
                rest = text[node.end * WIDTH : min(limit, node.end + BLOCK) * WIDTH]
                state = node.state_of(rest, usable)
                if state is not None:
                    return Found(state.end, path[:count_], state)
            return Found()
        node = path[-1] if path else self._roots[scope]
        rest = text[node.end * WIDTH : min(limit, node.end + BLOCK) * WIDTH]
        last, shared = node.nearest(rest, usable)
        if last is not None:
            return Found(node.end + shared, [*path, last])
        return Found(node.end, path)

    def path(
        self, scope: str, text: bytes, limit: int, usable: Callable[[Entry], bool] = lambda e: e.kept
    ) -> list[Entry]:
        """The whole blocks that `text` begins with, none of them reaching beyond `limit` tokens."""
        found: list[Entry] = []
        node = self._roots.get(scope)
        while node is not None and node.end + BLOCK <= limit:
            tokens = text[node.end * WIDTH : (node.end + BLOCK) * WIDTH]
            at = bisect_left(node.children, tokens, key=spelling)
            child = node.children[at] if at < len(node.children) else None
            if child is None or child.tokens != tokens or not usable(child):
                break
            node = child
            found.append(node)
        return found

    # -- growing -------------------------------------------------------------------------------------

    def block(self, parent: Entry, tokens: bytes) -> tuple[Entry, bytes | None]:
        """The block with these tokens behind `parent`, new or known.

        With it the key of a file that is not needed once the block is written: of a shorter one.
        Where a longer one is there that begins so, it is the answer.
        """
        siblings = parent.children
        at = bisect_left(siblings, tokens, key=spelling)
        if at < len(siblings) and siblings[at].tokens.startswith(tokens):
            return siblings[at], None
        entry = Entry(keys.block(parent.key, tokens), "block", parent, tokens, parent.scope)
        self._entries[entry.key] = entry
        siblings.insert(at, entry)
        if at and tokens.startswith(siblings[at - 1].tokens):
            shorter = siblings[at - 1]
            stale = shorter.key if shorter.disk or shorter.leaving else None
            self._detach(shorter)
            return entry, stale
        return entry, None

    def state(self, parent: Entry, tokens: bytes) -> Entry:
        """The state that `tokens` lead to from the whole block `parent`, new or known."""
        if parent.states is None:
            parent.states = {}
        entry = parent.states.get(tokens)
        if entry is None:
            entry = Entry(keys.state(parent.key, tokens), "state", parent, tokens, parent.scope)
            parent.states[tokens] = entry
            self._entries[entry.key] = entry
        return entry

    def hold(self, entry: Entry, payload: Any, nbytes: int) -> None:
        """It is in memory now."""
        if entry.payload is not None or not entry.alive:
            return
        entry.payload, entry.memory = payload, nbytes
        self.memory += nbytes
        if entry.parent is not None:
            entry.parent.warm += 1
        self._offer(entry)

    def written(self, entry: Entry, nbytes: int) -> None:
        """It is on disk now."""
        entry.leaving = False
        if entry.alive:
            self.disk += nbytes - entry.disk
            entry.disk = nbytes

    def use(self, entries: Iterable[Entry], now: float) -> None:
        for entry in entries:
            entry.used = now

    def pin(self, entries: Iterable[Entry], by: int) -> None:
        """Sessions begin (+1) or cease (-1) to hold these."""
        for entry in entries:
            entry.pins += by
            if by < 0 and not entry.pins:
                entry.queued = False  # its place in the heap is too far back
                self._offer(entry)

    # -- giving way ----------------------------------------------------------------------------------

    def victim(self) -> Entry | None:
        """What memory can best do without; None: it is empty."""
        while self._heap:
            rank, _, entry = self._heap[0]
            if not self._is_end(entry):
                heapq.heappop(self._heap)
                entry.queued = False
            elif rank < (now := self._rank(entry)):
                heapq.heapreplace(self._heap, (now, next(self._order), entry))
            else:
                return entry
        return None

    def release(self, entry: Entry) -> None:
        """It leaves memory."""
        if entry.payload is None:
            return
        self.memory -= entry.memory
        entry.payload, entry.memory = None, 0
        if entry.parent is not None:
            entry.parent.warm -= 1
            self._offer(entry.parent)
        self._prune(entry)

    def lost(self, entry: Entry) -> None:
        """It is not on disk: evicted, damaged, or it could not be written."""
        self.disk -= entry.disk
        entry.disk, entry.leaving = 0, False
        self._prune(entry)

    def remove(self, entry: Entry) -> None:
        """Forget it in both tiers; it stays as a step to what lies behind it."""
        entry.leaving = False
        self.lost(entry)
        self.release(entry)

    def _prune(self, entry: Entry) -> None:
        node: Entry | None = entry
        while node is not None and node.alive and node.kind != "root":
            if node.kept or node.children or node.states:
                return
            gone = node
            node = gone.parent
            self._detach(gone)

    def _detach(self, entry: Entry) -> None:
        """Out of the tree, with what it holds."""
        parent = entry.parent
        assert parent is not None
        self.disk -= entry.disk
        if entry.payload is not None:
            self.memory -= entry.memory
            entry.payload, entry.memory = None, 0
            parent.warm -= 1
            self._offer(parent)
        entry.disk = 0
        del self._entries[entry.key]
        if entry.kind == "state":
            assert parent.states is not None
            del parent.states[entry.tokens]
        else:
            del parent.children[bisect_left(parent.children, entry.tokens, key=spelling)]
        entry.alive = False

    # -- the order -----------------------------------------------------------------------------------

    def _is_end(self, entry: Entry) -> bool:
        return entry.alive and entry.payload is not None and not entry.warm

    def _rank(self, entry: Entry) -> Rank:
        return entry.pins > 0, entry.used, -entry.end

    def _offer(self, entry: Entry) -> None:
        if entry.queued or not self._is_end(entry):
            return
        entry.queued = True
        heapq.heappush(self._heap, (self._rank(entry), next(self._order), entry))
        if len(self._heap) > 2 * len(self._entries) + 64:  # mostly of entries that are gone
            ends = {id(entry): entry for _, _, entry in self._heap if self._is_end(entry)}
            self._heap = [(self._rank(entry), next(self._order), entry) for entry in ends.values()]
            heapq.heapify(self._heap)


def spelling(entry: Entry) -> bytes:
    return entry.tokens


def spell(tokens: Sequence[int]) -> bytes:
    """Token ids as the index and the files hold them: little-endian uint32."""
    ids = array("I", tokens)  # of a list, three times as fast as numpy
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tobytes()


def common(one: bytes, other: bytes) -> int:
    """How many tokens both begin with."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length // WIDTH
    differs = np.frombuffer(one, "<u4", length // WIDTH) != np.frombuffer(other, "<u4", length // WIDTH)
    return int(differs.argmax())
