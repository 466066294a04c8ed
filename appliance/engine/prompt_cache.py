"""Both tiers of the prompt cache behind the scheduler's seam: see `reuse` for what is asked, and when.

Deciding is the index's (`prompt_cache/index.py`), moving is `blocks`', and the disk is the store's; here is
what joins them. The decode thread owns it all. Only a fetch's end and `use` come from other threads.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from appliance.engine import blocks, caches, sessions
from appliance.engine.blocks import Piece, Unfit
from appliance.engine.load import Model
from appliance.engine.outgoing import Outgoing
from appliance.engine.prompt import Job
from appliance.engine.reuse import Caches, Match, Restored, Tier, Trail
from appliance.engine.sessions import Sessions
from appliance.prompt_cache.format import Loaded
from appliance.prompt_cache.index import Entry, Found, Index, spell
from appliance.prompt_cache.keys import BLOCK
from appliance.prompt_cache.sessions import Named
from appliance.prompt_cache.stops import boundaries
from appliance.prompt_cache.store import Store
from appliance.wire import CacheUse, Configure, Session

log = logging.getLogger(__name__)

WORTH = 128  # tokens: shorter texts cost less to compute than to keep
SHARED = 32  # tokens: less than this in common is the template's, and not worth a copy
SETTLE = 1.0  # seconds after a row's end in which its last block may still be replaced
COLD = 600.0  # seconds after which an unused session leaves memory
TEXTS = 64  # prompts kept as bytes, between look and begin


@dataclass
class Plan:
    """A match's own: what has to be read, and what was."""

    missing: list[bytes]
    loaded: dict[bytes, Loaded | None] = field(default_factory=dict)


class PromptCache:
    """index: of this model's namespace, filled by a scan of the store. store: None without a disk tier.

    named: its sessions. why: in words, why there is no store although there should be.
    """

    def __init__(
        self,
        model: Model,
        index: Index,
        store: Store | None,
        named: Named | None = None,
        why: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._net, self._kv_bits = model.net, model.kv_bits
        self._specials = special_tokens(model.tokenizer)
        self._index = index
        empty = caches.make(self._net, self._kv_bits)
        self._index.stateful = blocks.stateful(empty)
        self._passes = blocks.rewinds(empty)
        self._store = store
        self._outgoing = None if store is None else Outgoing(index, store)
        self._sessions = Sessions(index, named, self._outgoing)
        self._why = why
        self._clock = clock
        self._texts: OrderedDict[int, tuple[Sequence[int], bytes]] = OrderedDict()
        self._room = 0  # bytes of memory allowed by the spec, and by what runs
        self._bound: int | None = None
        self._disk = False
        self._figures = CacheUse()  # only its counters

    # -- limits and figures --------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        return self._index.memory + (0 if self._outgoing is None else self._outgoing.nbytes)

    def use(self) -> CacheUse:
        own = self._figures
        disk = None if self._store is None else self._store.use()
        broken: Literal["off", "failed"] = "off" if self._why is None else "failed"
        return CacheUse(
            memory_bytes=self._index.memory,
            disk_bytes=0 if disk is None else disk.bytes,
            memory_hits=own.memory_hits,
            disk_hits=own.disk_hits,
            misses=own.misses,
            damaged=0 if disk is None else disk.damaged,
            tokens=own.tokens,
            disk=broken if disk is None else disk.state,
            why=self._why if disk is None else disk.why,
        )

    def apply(self, limits: Configure) -> None:
        self._room = limits.cache_memory
        if self._store is not None:
            self._store.configure(limits.cache_disk)
            self._disk = limits.cache_disk > 0
        self._fit()

    def shrink(self, most: int) -> None:
        self._bound = most
        self._fit()

    @property
    def _most(self) -> int:
        """Bytes that the memory tier may hold now."""
        return self._room if self._bound is None else min(self._room, self._bound)

    def _fit(self) -> None:
        most = self._most
        while self._index.memory > most and (entry := self._index.victim()) is not None:
            self._index.release(entry)

    @property
    def _on(self) -> bool:
        return self._room > 0 or self._disk

    # -- finding and restoring -----------------------------------------------------------------------

    def look(self, job: Job) -> Match:
        if not self._on:
            return Match(job)
        self._hear()
        found = self._find(job, self._usable)
        self._index.use(found.entries, self._clock())  # making room for the row takes others first
        missing = [entry.key for entry in found.entries if entry.payload is None]
        tier: Tier | None = ("disk" if missing else "memory") if found.tokens else None
        return Match(job, found.tokens, tier, not missing, Plan(missing))

    def fetch(self, match: Match, wake: Callable[[], None]) -> None:
        plan: Plan = match.detail

        def done(loaded: dict[bytes, Loaded | None]) -> None:  # on the reader's thread
            plan.loaded = loaded
            match.ready = True
            wake()

        if self._store is None:
            done({})
        else:
            self._store.read(plan.missing, done)

    def forget(self, match: Match) -> None:
        self._texts.pop(match.job.rid, None)
        match.detail = None

    def restore(self, match: Match) -> Restored:
        if not self._on or match.detail is None:
            return Restored()
        self._hear()
        job, now = match.job, self._clock()
        read = self._taken(match.detail.loaded)
        found = self._find(job, lambda entry: entry.payload is not None or entry.key in read)
        if not found.tokens:
            return self._missed(job)
        pieces = [entry.payload or read[entry.key] for entry in found.entries]
        state = pieces.pop() if found.state is not None else None
        empty = caches.make(self._net, self._kv_bits)
        room = -(-(len(job.prompt) + 1) // BLOCK) * BLOCK
        try:
            joined = blocks.join(empty, pieces, state, found.tokens, room)
        except Unfit as error:
            log.warning("%d cached tokens cannot be used: %s", found.tokens, error)
            self._forget(found.entries)
            return self._missed(job)
        tier: Tier = "memory"
        for entry in found.entries:
            entry.used = now
            if entry.payload is None:
                tier = "disk"
            if entry.payload is None and read[entry.key].nbytes <= self._most:
                self._index.hold(entry, read[entry.key], read[entry.key].nbytes)
        self._fit()
        if self._store is not None:
            self._store.touch([entry.key for entry in found.entries if entry.disk])
        self._count(tier, found.tokens)
        return Restored(found.tokens, tier, joined)

    def _taken(self, loaded: dict[bytes, Loaded | None]) -> dict[bytes, Piece]:
        """What was read, in device memory."""
        taken = {}
        for key, file in loaded.items():
            if file is None:
                continue
            try:
                taken[key] = blocks.from_host(file.payload, file.meta)
            except Unfit as error:
                log.warning("a cached file cannot be used: %s", error)
                if (entry := self._index.get(key)) is not None:
                    self._forget([entry])
        return taken

    def _missed(self, job: Job) -> Restored:
        if len(job.prompt) >= WORTH:
            self._count(None, 0)
        return Restored()

    def _count(self, tier: Tier | None, tokens: int) -> None:
        own = self._figures
        self._figures = CacheUse(
            memory_hits=own.memory_hits + (tier == "memory"),
            disk_hits=own.disk_hits + (tier == "disk"),
            misses=own.misses + (tier is None),
            tokens=own.tokens + tokens,
        )

    def _usable(self, entry: Entry) -> bool:
        return entry.payload is not None or (self._disk and entry.disk > 0)

    def _kept(self, entry: Entry) -> bool:
        return entry.leaving or self._usable(entry)

    def _leads(self, entry: Entry) -> bool:
        """What is put behind it will be found."""
        return entry.kind == "root" or (entry.alive and self._kept(entry))

    def _find(self, job: Job, usable: Callable[[Entry], bool]) -> Found:
        found = self._index.match(job.scope, self._text(job), len(job.prompt) - 1, usable)
        return found if found.tokens >= SHARED else Found()

    def _text(self, job: Job) -> bytes:
        """The prompt's token ids as bytes: to walk a list of 100,000 takes milliseconds each time."""
        held = self._texts.get(job.rid)
        if held is None or held[0] is not job.prompt:
            held = self._texts[job.rid] = job.prompt, spell(job.prompt)
            if len(self._texts) > TEXTS:
                self._texts.popitem(last=False)
        return held[1]

    def _forget(self, entries: Sequence[Entry]) -> None:
        """In both tiers."""
        for entry in entries:
            self._index.remove(entry)
        if self._outgoing is not None:
            self._outgoing.drop([entry.key for entry in entries])

    # -- keeping -------------------------------------------------------------------------------------

    def begin(self, job: Job, restored: Restored) -> Trail:
        if not self._on:
            return Trail(job)
        text = self._text(job)
        self._texts.pop(job.rid, None)

        def known(entry: Entry) -> bool:
            """Kept; what is computed all the same (it was still being written) goes to memory as well."""
            held = entry.payload is not None or entry.end <= restored.tokens or self._most == 0
            return held and self._kept(entry)

        path = self._index.path(job.scope, text, len(job.prompt), known)
        last = path[-1] if path else self._index.root(job.scope)
        self._index.use(path, self._clock())
        trail = Trail(job, restored.tokens, last.end, passes=self._passes, grown=restored.tokens, detail=last)
        if self._index.stateful:
            wanted = boundaries(job.prompt, self._specials, max(WORTH, restored.tokens + 1))
            if not wanted and len(job.prompt) > WORTH:  # plain text: at least the same again is found
                wanted = [len(job.prompt) - 1]
            trail.stops = [stop for stop in wanted if not self._has_state(job, text, stop)]
        return trail

    def _has_state(self, job: Job, text: bytes, stop: int) -> bool:
        return self._index.match(job.scope, text, stop, self._usable).tokens == stop

    def grown(self, trail: Trail, caches: Caches, row: int | None, tokens: Sequence[int]) -> None:
        if trail.detail is None or not self._on:
            return
        self._keep_blocks(trail, caches, row, tokens)
        for stop in trail.stops:
            if trail.grown < stop <= len(tokens):
                try:
                    self._keep_end(trail, caches, row, tokens[:stop], len(tokens) - stop)
                except Unfit as error:  # then the next prompt is computed from further back
                    log.warning("the state after %d tokens cannot be kept: %s", stop, error)
        trail.grown = len(tokens)
        self._fit()

    def ended(self, trail: Trail, caches: Caches, row: int | None, tokens: Sequence[int]) -> None:
        if trail.detail is None or not self._on:
            return
        self._keep_blocks(trail, caches, row, tokens)
        last: Entry = trail.detail
        if len(tokens) >= WORTH or trail.restored:
            last = self._keep_end(trail, caches, row, tokens) or last
        if last.kind != "root":
            self._sessions.ended(trail.job, last, len(tokens), self._clock())
        trail.detail = None
        self._fit()

    def _keep_blocks(self, trail: Trail, caches: Caches, row: int | None, tokens: Sequence[int]) -> None:
        """The whole blocks that came since the last time."""
        while trail.kept + BLOCK <= len(tokens):
            last: Entry = trail.detail
            if not self._leads(last):
                return  # it had to give way meanwhile: what is behind it would never be found
            ids = spell(tokens[trail.kept : trail.kept + BLOCK])
            entry, stale = self._index.block(last, ids)
            if not self._kept(entry):
                piece = blocks.cut(caches, row, len(tokens), trail.kept, trail.kept + BLOCK)
                self._keep(entry, piece, 0.0, stale)
            elif entry.payload is None and self._most > 0:
                self._hold(entry, blocks.cut(caches, row, len(tokens), trail.kept, trail.kept + BLOCK))
            entry.used = self._clock()
            trail.detail = entry
            trail.kept += BLOCK

    def _keep_end(
        self, trail: Trail, caches: Caches, row: int | None, tokens: Sequence[int], back: int = 0
    ) -> Entry | None:
        """The text's unfinished block, or the state where it stands. back: tokens beyond, in the caches."""
        last: Entry = trail.detail
        while last.end > len(tokens) and last.parent is not None:
            last = last.parent  # blocks are known further on than this row has come
        if len(tokens) - last.end >= BLOCK or not self._leads(last):
            return None
        ids = spell(tokens[last.end :])
        if self._index.stateful:
            entry = self._index.state(last, ids)
            if not self._kept(entry):  # replaces nothing, so there is nothing to wait for
                piece = blocks.cut_state(caches, row, len(tokens) + back, last.end, back)
                self._keep(entry, piece, 0.0)
        else:
            if not ids:
                return last
            entry, stale = self._index.block(last, ids)
            if not self._kept(entry):
                if entry.tokens != ids:
                    return None  # a longer one that is there only as a step to others
                piece = blocks.cut(caches, row, len(tokens), last.end, len(tokens))
                self._keep(entry, piece, self._clock() + SETTLE, stale)
        entry.used = self._clock()
        return entry

    def _keep(self, entry: Entry, piece: Piece, due: float, stale: bytes | None = None) -> None:
        entry.used = self._clock()
        self._hold(entry, piece)
        if self._outgoing is not None and self._disk and self._outgoing.ready:
            self._outgoing.add(entry, piece, due, stale)
        elif entry.payload is None:
            self._index.lost(entry)

    def _hold(self, entry: Entry, piece: Piece) -> None:
        if piece.nbytes <= self._most:  # a larger one would only drive out all others, and then itself
            self._index.hold(entry, piece, piece.nbytes)

    # -- time ----------------------------------------------------------------------------------------

    def turn(self) -> None:
        if self._outgoing is not None:
            now = self._clock()
            self._outgoing.turn(now)
            self._sessions.turn(now - sessions.SETTLE)

    def idle(self) -> None:
        now = self._clock()
        if self._outgoing is not None:
            self._outgoing.turn(now, still=True)
            self._sessions.turn(now - sessions.SETTLE)
        self._sessions.cool(now - COLD)

    def close(self) -> None:
        if self._outgoing is not None and self._store is not None:
            self._outgoing.finish()
            self._sessions.turn(float("inf"))
            self._store.close(1.0)

    def _hear(self) -> None:
        if self._outgoing is not None:
            self._outgoing.hear()

    # -- sessions ------------------------------------------------------------------------------------

    def sessions(self) -> list[Session]:
        self._hear()
        return self._sessions.all()

    def drop(self, name: str | None, scope: str | None) -> list[Session]:
        self._hear()
        return self._sessions.drop(name, scope)


def special_tokens(tokenizer: object) -> Collection[int]:
    """Ids of what a tokenizer calls special: markers of turns, beginnings and ends of text."""
    added: dict[int, object] = getattr(tokenizer, "added_tokens_decoder", {})
    named: Sequence[int] = getattr(tokenizer, "all_special_ids", ())
    return {*named, *(number for number, token in added.items() if getattr(token, "special", False))}
