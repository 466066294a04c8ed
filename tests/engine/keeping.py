"""A prompt cache for tests of the scheduler: it keeps whole texts, in memory, and really restores them.

Only for models whose caches are all `KVCache`. It checks of every call what the seam promises: that the
caches hold exactly the tokens that are said, in the right place, with the keys and values a plain forward
pass gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core
from mlx_lm.models.cache import KVCache, make_prompt_cache

from appliance.engine.prompt import Job
from appliance.engine.reuse import Match, Restored, Reuse, Tier, Trail
from appliance.wire import CacheUse, Configure, Session

mx: Any = mlx.core


@dataclass
class Kept:
    tokens: list[int]
    caches: list[Any]
    nbytes: int


def plain(caches: list[Any], row: int | None) -> list[Any]:
    return caches if row is None else [cache.extract(row) for cache in caches]


def computed(net: Any, tokens: Sequence[int]) -> list[Any]:
    caches = make_prompt_cache(net)
    net(mx.array([list(tokens)]), cache=caches)
    return caches


def first(cache: Any, tokens: int) -> tuple[Any, Any]:
    return cache.keys[..., :tokens, :], cache.values[..., :tokens, :]


@dataclass
class Keeping(Reuse):
    """tier: where everything is said to lie; "disk" needs a fetch, which `release` ends.

    stops: of every trail. fail: the methods that raise.
    """

    net: Any
    tier: Tier = "memory"
    stops: list[int] = field(default_factory=list)
    fail: set[str] = field(default_factory=set)
    kept: list[Kept] = field(default_factory=list)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    fetching: list[tuple[Match, Callable[[], None]]] = field(default_factory=list)
    most: int | None = None

    @property
    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in self.kept)

    def _call(self, name: str, *what: Any) -> None:
        self.calls.append((name, *what))
        if name in self.fail:
            raise LookupError(f"{name} does not work")

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    def use(self) -> CacheUse:
        return CacheUse(memory_bytes=self.nbytes)

    def apply(self, limits: Configure) -> None:
        self._call("apply", limits)

    def shrink(self, most: int) -> None:
        self._call("shrink", most)
        self.most = most
        while self.kept and self.nbytes > most:
            self.kept.pop(0)

    def look(self, job: Job) -> Match:
        self._call("look", job.rid)
        best = max((common(kept.tokens, job.prompt) for kept in self.kept), default=0)
        tokens = min(best, len(job.prompt) - 1)
        return Match(job, tokens, self.tier if tokens else None, ready=self.tier == "memory" or not tokens)

    def fetch(self, match: Match, wake: Callable[[], None]) -> None:
        self._call("fetch", match.job.rid)
        self.fetching.append((match, wake))

    def release(self) -> None:
        """From any thread: what was fetched is there."""
        waiting, self.fetching = self.fetching, []
        for match, wake in waiting:
            match.ready = True
            wake()

    def forget(self, match: Match) -> None:
        self._call("forget", match.job.rid)

    def restore(self, match: Match) -> Restored:
        self._call("restore", match.job.rid)
        job, tokens = match.job, match.tokens
        source = next((kept for kept in self.kept if common(kept.tokens, job.prompt) >= tokens), None)
        if not tokens or source is None:
            return Restored()
        caches = []
        for kept in source.caches:
            cache = KVCache()
            cache.update_and_fetch(*first(kept, tokens))
            caches.append(cache)
        mx.eval([cache.state for cache in caches])
        return Restored(tokens, match.tier, caches)

    def begin(self, job: Job, restored: Restored) -> Trail:
        self._call("begin", job.rid, restored.tokens)
        return Trail(job, restored.tokens, restored.tokens, list(self.stops))

    def grown(self, trail: Trail, caches: list[Any], row: int | None, tokens: Sequence[int]) -> None:
        self._call("grown", trail.job.rid, len(tokens))
        self._keep(caches, row, tokens)

    def ended(self, trail: Trail, caches: list[Any], row: int | None, tokens: Sequence[int]) -> None:
        self._call("ended", trail.job.rid, list(tokens))
        self._keep(caches, row, tokens)

    def _keep(self, caches: list[Any], row: int | None, tokens: Sequence[int]) -> None:
        """Raises AssertionError where the caches do not hold exactly these tokens."""
        held = plain(caches, row)
        for cache, right in zip(held, computed(self.net, tokens), strict=True):
            assert type(cache) is KVCache
            assert cache.offset == len(tokens), (cache.offset, len(tokens))
            for ours, theirs in zip(first(cache, len(tokens)), first(right, len(tokens)), strict=True):
                assert mx.allclose(ours, theirs, rtol=1e-3, atol=1e-4)
        copies = [mx.array(array) for cache in held for array in first(cache, len(tokens))]
        mx.eval(copies)
        size = sum(int(array.nbytes) for array in copies)
        if self.most is None or self.nbytes + size <= self.most:
            wholes = []
            for keys, values in zip(copies[::2], copies[1::2], strict=True):
                cache = KVCache()
                cache.state = keys, values, len(tokens)
                wholes.append(cache)
            self.kept.append(Kept(list(tokens), wholes, size))

    def turn(self) -> None:
        self._call("turn")

    def idle(self) -> None:
        self._call("idle")

    def sessions(self) -> list[Session]:
        self._call("sessions")
        return [Session("one", 5, 1.0), Session("two", 6, 2.0)]

    def drop(self, name: str | None, scope: str | None) -> list[Session]:
        self._call("drop", name, scope)
        return [Session("one", 5, 1.0)]

    def close(self) -> None:
        self._call("close")


def common(one: Sequence[int], other: Sequence[int]) -> int:
    same = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        same += 1
    return same
