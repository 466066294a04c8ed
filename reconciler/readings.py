"""What the policies of `pressure` and `guard` read: measured figures, one record per look. Pure data.

Times are seconds on one monotonic clock, sizes bytes, shares 0 to 1. None: could not be measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reconciler.units import Share

Level = Literal["normal", "warning", "critical"]
LEVELS: tuple[Level, ...] = ("normal", "warning", "critical")


@dataclass(frozen=True)
class EngineReading:
    """One engine that is not gone. allowed_bytes: what it was let in for, its share of the spare included;
    0 while it has none. leaving: it drains or stops already."""

    id: str
    model: str
    memory_bytes: int
    allowed_bytes: int = 0
    priority: int = 100
    active: bool = False  # it answers unnamed requests
    busy: bool = False  # it holds requests, or some wait for it
    leaving: bool = False


@dataclass(frozen=True)
class Reading:
    """The machine at one moment. used: engines and parent. system: what the system itself says, and why.
    lent: of used, what prompt caches hold and give back when anything else needs it."""

    at: float
    budget_bytes: int
    used_bytes: int
    other_bytes: int = 0
    available_bytes: int = 0
    system: Level = "normal"
    system_why: str = ""
    heat: str | None = None  # one of names.HEAT
    engines: tuple[EngineReading, ...] = ()
    lent_bytes: int = 0

    def reaches(self, share: Share) -> bool:
        """Whether our use reaches a share of the budget. Without a budget it is not known to reach any."""
        return self.budget_bytes > 0 and self.used_bytes >= self.budget_bytes * share.fraction


@dataclass(frozen=True)
class Service:
    """How one model has served, over the window that `guard` asks for. None: nothing to tell from.

    fast_*: over a twelfth of `slo.error_budget.window`, slow_*: over all of it. failed: answers that are
    the appliance's fault (5xx, streams that broke), refusals for overload not counted. usual_tokens_per_s:
    what this very engine did before at about the same number of rows.
    """

    at: float
    engine: str | None = None
    priority: int = 100
    requests: int = 0  # with a first token, over the last minute
    ttft_p95_s: float | None = None
    tokens_per_s_p50: float | None = None
    usual_tokens_per_s: float | None = None
    queued: int = 0
    rows: int = 0
    concurrency: int = 1
    saturation: float | None = None  # share of the time that the device worked for this engine
    pace_s: float | None = None  # mean duration of a request
    cold_start_s: float | None = None  # of the newest engine, spawn to ready
    fast_total: int = 0
    fast_failed: int = 0
    slow_total: int = 0
    slow_failed: int = 0
    own_failed: int = 0  # of fast_failed, those of `engine`
    wait_p95_s: float | None = None  # of the time to the first token, what was spent in the queue
    refused: int = 0  # turned away over the last minute because too many waited
    counted_from: float | None = None  # when the first of `requests` came
