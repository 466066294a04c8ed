"""Service levels -> stage of the guardrails, per model, with hysteresis. Pure.

docs/degradation.md has the figures and the stages in words. A stage does only what can help against the
figure that is over its line: a queue is cut where waiting makes answers late, others are shed where there
are others, an engine is replaced where it does worse than it did itself.

The error budget is watched as Google's SRE workbook advises (Alerting on SLOs, "multiwindow, multi-burn-rate
alerts"): over the line when both a long window and a twelfth of it burn 14.4 times faster than would use the
budget up evenly. The long one shows that it matters, the short one that it goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from reconciler.events import EventType
from reconciler.readings import Service
from reconciler.spec import Slo

STAGES = ("normal", "back-pressure", "shedding", "restart")


@dataclass(frozen=True)
class Policy:
    """Seconds, counts and factors."""

    hold: float = 30.0  # a stage is kept at least this long
    calm: float = 60.0  # inside for this long, before a stage is left; doubled with each relapse
    longest_calm: float = 480.0
    relapse: float = 600.0  # a stage entered sooner than this after one was left is a relapse
    restart_every: float = 600.0  # at most one restart in this time; doubled while restarts do not help
    longest_restart_every: float = 6 * 3600.0
    samples: int = 20  # fewer requests say nothing
    failures: int = 3  # nor do fewer failures: one in twenty is no trend
    inside: float = 0.8  # this part of a line counts as inside it
    burn: float = 14.4
    sick: float = 0.5  # an engine at under this part of its usual speed is replaced


POLICY = Policy()


@dataclass(frozen=True)
class Miss:
    """A figure over its line. value and limit in the figure's own unit."""

    figure: Literal["ttft_p95", "tokens_per_s_p50", "error_budget", "cold_start"]
    value: float
    limit: float

    @property
    def words(self) -> str:
        if self.figure == "ttft_p95":
            return f"p95 time to first token {_seconds(self.value)} over {_seconds(self.limit)}"
        if self.figure == "tokens_per_s_p50":
            return f"median speed {self.value:.3g} tokens/s under {self.limit:g}"
        if self.figure == "cold_start":
            return f"start took {_seconds(self.value)}, over {_seconds(self.limit)}"
        return f"failures use the error budget up {self.value:.3g} times too fast (line: {self.limit:g})"


@dataclass(frozen=True)
class Guard:
    """One model's service levels.

    stage: 0 inside, 1 back-pressure, 2 shedding, 3 restart. depth: most requests that may wait for it; None:
    as declared. refuse_below: models of lower priority take no new request. recycle: the engine that is to be
    replaced, kept while stage 3 lasts; since then counts from its replacement. why: one sentence with the
    figures that triggered the stage.
    """

    stage: int = 0
    depth: int | None = None
    refuse_below: int | None = None
    recycle: str | None = None
    why: str = ""
    since: float = 0.0
    inside_since: float | None = None
    recycled_at: float | None = None
    replaced_by: str | None = None  # answers instead of `recycle`
    recycles: int = 0  # since the model was last inside its lines
    left_at: float | None = None  # when a stage was last left
    relapses: int = 0
    misses: tuple[Miss, ...] = ()  # what was over its line when the stage was entered
    depth_at: float = 0.0  # when depth was last set
    slow_start: Miss | None = None  # how long `started` took to start, if that was too long
    started: str | None = None  # the newest engine whose start was looked at


def advance(
    before: Mapping[str, Guard],
    services: Mapping[str, Service],
    slo: Slo,
    policy: Policy = POLICY,
    *,
    strained: bool = False,
) -> Mapping[str, Guard]:
    """One look later, for all models at once. A model without a guard is inside and has nothing to remember.

    strained: the machine is hot or short of memory, which slows engines down. None is restarted for that.
    """
    after = {}
    for name, service in services.items():
        others = [other for key, other in services.items() if key != name]
        guard = _Look(before.get(name, Guard()), service, others, slo, policy, strained).next()
        if guard != Guard():
            after[name] = guard
    return after


@dataclass(frozen=True)
class _Look:
    guard: Guard
    service: Service
    others: list[Service]
    slo: Slo
    policy: Policy
    strained: bool

    def next(self) -> Guard:
        guard, at = self._settled(), self.service.at
        misses = self._misses()
        since = guard.since if guard.stage else guard.left_at
        held = since is None or at - since >= self.policy.hold
        if misses:
            guard = replace(guard, inside_since=None)
            if held and self._step_up(guard, misses):
                guard = self._entered(guard, guard.stage + 1, misses)
            elif guard.stage == 3 and guard.recycle != self.service.engine:
                if self._may_recycle(guard, misses):
                    guard = self._entered(guard, 3, misses)
                elif held and self._fresh(guard):
                    guard = self._entered(guard, 2, misses)  # what is left is no reason to do it again
        elif self._inside():
            calm_since = at if guard.inside_since is None else guard.inside_since
            guard = replace(guard, inside_since=calm_since if guard.stage else None)
            enough = min(self.policy.longest_calm, self.policy.calm * 2.0**guard.relapses)
            if guard.stage and held and at - calm_since >= enough and not self._needed(guard):
                guard = self._left(guard)
        else:
            guard = replace(guard, inside_since=None)
        return self._effects(guard, misses)

    # --- the figures ----------------------------------------------------------------------------------

    def _misses(self) -> tuple[Miss, ...]:
        return tuple(miss for miss in self._figures() if _over(miss, 1.0))

    def _inside(self) -> bool:
        """With room to spare, or nothing is known against it."""
        return not any(_over(miss, self.policy.inside) for miss in self._figures())

    def _figures(self) -> Iterator[Miss]:
        """Those that have a line and enough requests behind them."""
        service, slo = self.service, self.slo
        if service.requests >= self.policy.samples:
            if slo.ttft_p95 is not None and service.ttft_p95_s is not None:
                yield Miss("ttft_p95", service.ttft_p95_s, slo.ttft_p95)
            if slo.tokens_per_s_p50 is not None and service.tokens_per_s_p50 is not None:
                yield Miss("tokens_per_s_p50", service.tokens_per_s_p50, slo.tokens_per_s_p50)
        burn = self._burn(service.fast_failed)
        if burn is not None:
            yield Miss("error_budget", burn, self._burn_line())

    def _burn(self, fast_failed: int) -> float | None:
        """How many times too fast the budget goes, by the window that shows less."""
        service, allowed = self.service, 1.0 - self.slo.error_budget.target.fraction
        if allowed <= 0 or service.fast_total < self.policy.samples or fast_failed < self.policy.failures:
            return None
        fast = fast_failed / service.fast_total
        slow = service.slow_failed / max(1, service.slow_total)
        return min(fast, slow) / allowed

    def _burn_line(self) -> float:
        """A loose target cannot burn that fast; then half of all requests failing is over the line."""
        allowed = 1.0 - self.slo.error_budget.target.fraction
        return max(1.0, min(self.policy.burn, 0.5 / allowed)) if allowed > 0 else self.policy.burn

    def _sick(self, misses: tuple[Miss, ...]) -> str:
        """Why this engine does worse than it could; "" if it does not, or nobody can tell.

        Load alone is no sickness: its usual speed is that at as many rows, and while other engines work,
        or heat or want of memory slow the machine, speeds are not compared.
        """
        service = self.service
        own = self._burn(service.own_failed)
        if own is not None and own > self._burn_line():
            return f"{service.own_failed} failures are {service.engine}'s own"
        speed, usual = service.tokens_per_s_p50, service.usual_tokens_per_s
        if self.strained or not any(miss.figure != "error_budget" for miss in misses):
            return ""
        if speed is None or usual is None or service.requests < self.policy.samples:
            return ""
        if any(other.rows or other.queued for other in self.others) or speed >= usual * self.policy.sick:
            return ""
        return f"{speed:.3g} tokens/s where {service.engine} usually does {usual:.3g} at this load"

    # --- the stages -----------------------------------------------------------------------------------

    def _step_up(self, guard: Guard, misses: tuple[Miss, ...]) -> bool:
        if guard.stage == 0:
            return True
        sick, shed = self._sick(misses), _late(misses) and self._can_shed()
        if guard.stage == 1:
            return bool(sick) or (shed and self._fresh(guard))
        return guard.stage == 2 and self._may_recycle(guard, misses) and (not shed or self._fresh(guard))

    def _fresh(self, guard: Guard) -> bool:
        """All figures are of requests that came after the stage began: they tell whether it helped."""
        return self.service.counted_from is None or self.service.counted_from >= guard.since

    def _can_shed(self) -> bool:
        return any(
            other.engine is not None and other.priority < self.service.priority for other in self.others
        )

    def _may_recycle(self, guard: Guard, misses: tuple[Miss, ...]) -> bool:
        if self.service.engine is None or not self._sick(misses):
            return False
        return not self._too_soon(guard)

    def _too_soon(self, guard: Guard) -> bool:
        """For another restart. While they do not help, they come more and more seldom."""
        if guard.recycled_at is None:
            return False
        wait = self.policy.restart_every * 2.0 ** max(0, min(guard.recycles, 20) - 1)
        return self.service.at - guard.recycled_at < min(self.policy.longest_restart_every, wait)

    def _needed(self, guard: Guard) -> bool:
        """The cut queue still turns requests away: without the cut they would wait, and be late."""
        return guard.stage == 1 and guard.depth is not None and self.service.refused > 0

    def _entered(self, guard: Guard, stage: int, misses: tuple[Miss, ...]) -> Guard:
        at, restarts = self.service.at, stage == 3
        left = guard.left_at
        relapse = left is not None and at - left < self.policy.relapse and guard.since in (0.0, left)
        return replace(
            guard,
            stage=stage,
            since=at,
            misses=misses,
            inside_since=None,
            why=self._why(misses),
            recycle=self.service.engine if restarts else None,
            replaced_by=None,
            recycled_at=at if restarts else guard.recycled_at,
            recycles=guard.recycles + restarts,
            relapses=guard.relapses + (relapse and stage > guard.stage),
        )

    def _left(self, guard: Guard) -> Guard:
        at, stage = self.service.at, guard.stage - 1
        why = f"inside its lines for {_seconds(at - (guard.inside_since or at))}"
        guard = replace(
            guard,
            stage=stage,
            since=at,
            inside_since=at,
            misses=(),
            why=why,
            recycle=None,
            replaced_by=None,
            left_at=at,
        )
        return guard if stage else replace(guard, inside_since=None, recycles=0)

    def _settled(self) -> Guard:
        """With what is known of the newest start, without what is long ago."""
        guard, service = self.guard, self.service
        if guard.recycle is not None and service.engine not in (None, guard.recycle, guard.replaced_by):
            guard = replace(guard, replaced_by=service.engine, since=service.at)
        if service.engine is not None and service.cold_start_s is not None:
            line, took = self.slo.cold_start, service.cold_start_s
            slow = Miss("cold_start", took, line) if line is not None and took > line else None
            if slow is not None or guard.started is not None:
                guard = replace(guard, slow_start=slow, started=service.engine if slow else None)
        if guard.stage == 0:
            left, last = guard.left_at, guard.recycled_at
            recent = left is not None and service.at - left < self.policy.relapse
            return Guard(
                recycled_at=last if last is not None and self._too_soon(guard) else None,
                left_at=left if recent else None,
                relapses=guard.relapses if recent else 0,
                slow_start=guard.slow_start,
                started=guard.started,
            )
        return guard

    def _effects(self, guard: Guard, misses: tuple[Miss, ...]) -> Guard:
        """What the stage does now. Orders that move with each look would be new orders in each pass."""
        if guard.stage == 0:
            return replace(guard, depth=None, refuse_below=None, depth_at=0.0)
        if guard.depth is None or self.service.at - guard.depth_at >= self.policy.hold:
            depth = self._depth(guard, misses)
            if depth != guard.depth:
                guard = replace(guard, depth=depth, depth_at=self.service.at)
        if guard.stage < 2:
            return replace(guard, refuse_below=None)
        shed = _late(misses) and self._can_shed()
        return replace(guard, refuse_below=self.service.priority) if shed else guard

    def _depth(self, guard: Guard, misses: tuple[Miss, ...]) -> int | None:
        """How many may wait and still hear their first token in time; one always may, or rows would idle.

        Where waiting is less than half of the line, it is not what makes answers late, and nothing is cut.
        """
        service, line = self.service, self.slo.ttft_p95
        if line is None or service.pace_s is None or service.ttft_p95_s is None:
            return guard.depth
        waited = service.ttft_p95_s if service.wait_p95_s is None else service.wait_p95_s
        if guard.depth is None and (
            waited < line / 2 or not any(miss.figure == "ttft_p95" for miss in misses)
        ):
            return None
        own = max(0.0, service.ttft_p95_s - waited)  # what a request takes that did not wait
        rows_freed_per_s = service.concurrency / max(0.001, service.pace_s)
        return max(1, int(max(0.0, line - own) * rows_freed_per_s))

    # --- words ----------------------------------------------------------------------------------------

    def _why(self, misses: tuple[Miss, ...]) -> str:
        service = self.service
        about = [f"{service.requests} requests", f"queue {service.queued}"]
        if service.saturation is not None:
            about.append(f"device {service.saturation:.0%} busy".replace("%", " %"))
        if any(miss.figure == "error_budget" for miss in misses):
            about.append(f"{service.fast_failed} of {service.fast_total} failed")
        sick = self._sick(misses)
        if sick:
            about.append(sick)
        return f"{', '.join(miss.words for miss in misses)} ({', '.join(about)})"


def changes(
    before: Mapping[str, Guard], after: Mapping[str, Guard], services: Mapping[str, Service]
) -> Iterator[tuple[EventType, str, dict[str, Any]]]:
    """What to tell: stages entered and left, restarts, and starts that took too long."""
    for name in sorted(before.keys() | after.keys()):
        old, new, service = before.get(name, Guard()), after.get(name, Guard()), services.get(name)
        if new.slow_start is not None and new.started != old.started:
            data = _data(name, old, old, service) | {"figures": [asdict(new.slow_start)]}
            yield EventType.SLO_STAGE, f"{name}: {new.started}: {new.slow_start.words}", data
        again = new.recycle is not None and new.recycle != old.recycle
        if new.stage == old.stage and not again:
            continue
        why = new.why if new.stage else "no longer watched" if service is None else _back(old, service)
        yield EventType.SLO_STAGE, f"{name}: {why}: {_doing(old, new)}", _data(name, old, new, service)


def _back(old: Guard, service: Service) -> str:
    inside = service.at - (service.at if old.inside_since is None else old.inside_since)
    return f"inside its lines for {_seconds(inside)}"


def _doing(old: Guard, guard: Guard) -> str:
    parts = [("back to " if guard.stage < old.stage else "") + STAGES[guard.stage]]
    if guard.depth is not None:
        parts.append(f"queue cut to {guard.depth}")
    if guard.refuse_below is not None:
        parts.append(f"models under priority {guard.refuse_below} take no new requests")
    if guard.recycle not in (None, old.recycle):
        parts.append(f"{guard.recycle} is replaced")
    return ", ".join(parts)


def _data(name: str, old: Guard, new: Guard, service: Service | None) -> dict[str, Any]:
    return {
        "model": name,
        "stage": new.stage,
        "before": old.stage,
        "figures": [asdict(miss) for miss in new.misses],
        "depth": new.depth,
        "refuse_below": new.refuse_below,
        "recycle": new.recycle,
        "service": None if service is None else asdict(service),
    }


def _over(miss: Miss, part: float) -> bool:
    """Over this part of the line; a speed is over it when it is low."""
    if miss.figure == "tokens_per_s_p50":
        return miss.value * part < miss.limit
    return miss.value > miss.limit * part


def _late(misses: tuple[Miss, ...]) -> bool:
    return any(miss.figure in ("ttft_p95", "tokens_per_s_p50") for miss in misses)


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 0.1 else f"{seconds:.3g} s"
