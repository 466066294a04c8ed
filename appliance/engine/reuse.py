"""The seam between the scheduler and the prompt cache: what is asked for, when, and with which guarantees.

All methods are called on the decode thread, and none of them waits for a disk. `prompt_cache.PromptCache`
is the real one; `Off` is a cache that is turned off, which finds and keeps nothing.

A cache may forget anything at any time except between `restore` and the end of that call. It never raises for
what happens to its files: a miss is always a right answer. An exception out of it is a fault of its own; the
scheduler treats it like one in a step, and the request it was for ends in an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from appliance.engine.prompt import Job
from appliance.wire import CacheUse, Configure, Session

Tier = Literal["memory", "disk"]
Caches = list[Any]  # one plain cache per layer


@dataclass(eq=False)
class Match:
    """What the index found for one job, by what it was found at. `detail` is the cache's own.

    tokens: of the prompt that can be restored, always less than the prompt. tier: the slowest one needed.
    ready: nothing has to be read from disk any more; set by `fetch`'s end, before it wakes.
    """

    job: Job
    tokens: int = 0
    tier: Tier | None = None
    ready: bool = True
    detail: Any = None


@dataclass(eq=False)
class Trail:
    """How far one row's text is kept already. `detail` is the cache's own."""

    job: Job
    restored: int = 0
    kept: int = 0  # tokens from the start that need no further cutting
    stops: list[int] = field(default_factory=list)  # ascending: where a prefill must pause, for a state
    passes: bool = False  # it need not pause: a state that has been passed can be had after the chunk too
    grown: int = 0  # tokens at the last call of `grown`; the restored ones at first
    detail: Any = None


@dataclass(frozen=True)
class Restored:
    """caches: plain ones that hold the first `tokens` tokens of the prompt; None where that is none."""

    tokens: int = 0
    tier: Tier | None = None
    caches: Caches | None = None


class Reuse(Protocol):
    @property
    def nbytes(self) -> int:
        """Bytes of device memory held. Part of the engine's allowance."""

    def use(self) -> CacheUse:
        """The figures; safe from any thread."""

    def apply(self, limits: Configure) -> None:
        """New limits: `cache_memory` and `cache_disk`."""

    def shrink(self, most: int) -> None:
        """Hold at most so many bytes of memory from now on, whatever `cache_memory` allows beyond it."""

    def look(self, job: Job) -> Match:
        """The longest restorable prefix of the prompt. Pure; under 20 ms for 100,000 tokens."""

    def fetch(self, match: Match, wake: Callable[[], None]) -> None:
        """Start reading what lies on disk; `wake()` comes from another thread once `match.ready` is set."""

    def forget(self, match: Match) -> None:
        """The job of a fetch is gone: what was read for it may go too."""

    def restore(self, match: Match) -> Restored:
        """Caches for what is ready; perhaps shorter than matched. Counts the hit or miss."""

    def begin(self, job: Job, restored: Restored) -> Trail:
        """The row starts to compute what is left."""

    def grown(self, trail: Trail, caches: Caches, row: int | None, tokens: Sequence[int]) -> None:
        """`caches` now hold `tokens` (prompt, then output) for this row: keep what became whole.

        Exactly these, but for per-token caches beside rotating ones, which may hold one more.

        row: its place in batched caches; None for plain ones. After each chunk of a prefill, whose
        `stops` were respected unless the trail `passes` them. Work on the device is launched, not waited for.
        """

    def ended(self, trail: Trail, caches: Caches, row: int | None, tokens: Sequence[int]) -> None:
        """As `grown`, at the row's end (finished or cancelled): the rest is kept too. The trail is over.

        Not called for a row that computed nothing, or whose step or chunk failed: its trail is just let go.
        """

    def turn(self) -> None:
        """Once a turn, when the step before has been read: hand finished copies to the writer. Cheap."""

    def idle(self) -> None:
        """Nothing runs: time for what can wait."""

    def sessions(self) -> list[Session]: ...

    def drop(self, name: str | None, scope: str | None) -> list[Session]:
        """Forget one named session, or all; what was dropped."""

    def close(self) -> None:
        """Write what is waiting, for a second at most. The engine ends."""


class Off:
    """No prompt cache."""

    nbytes = 0

    def use(self) -> CacheUse:
        return CacheUse()

    def apply(self, limits: Configure) -> None:
        pass

    def shrink(self, most: int) -> None:
        pass

    def look(self, job: Job) -> Match:
        return Match(job)

    def fetch(self, match: Match, wake: Callable[[], None]) -> None:
        wake()

    def forget(self, match: Match) -> None:
        pass

    def restore(self, match: Match) -> Restored:
        return Restored()

    def begin(self, job: Job, restored: Restored) -> Trail:
        return Trail(job)

    def grown(self, trail: Trail, caches: Caches, row: int | None, tokens: Sequence[int]) -> None:
        pass

    def ended(self, trail: Trail, caches: Caches, row: int | None, tokens: Sequence[int]) -> None:
        pass

    def turn(self) -> None:
        pass

    def idle(self) -> None:
        pass

    def sessions(self) -> list[Session]:
        return []

    def drop(self, name: str | None, scope: str | None) -> list[Session]:
        return []

    def close(self) -> None:
        pass
