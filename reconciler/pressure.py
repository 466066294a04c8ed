"""Readings over time -> steps of the degradation ladder, with hysteresis. Pure.

docs/degradation.md has the states and the rules in words. One reading takes or undoes at most one step, so
that the next reading can show what it brought; only an edit of the ladder may undo several at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from reconciler import names
from reconciler.readings import LEVELS, EngineReading, Level, Reading
from reconciler.runaway import Growth, growing, runaway
from reconciler.spec import Spec
from reconciler.units import Share

# Steps that take models out: in vain where other programs fill the machine.
TAKES_MODELS = frozenset({"shed", "unload"})
ENDING_S = 2.0  # a runaway engine is killed within this long; no step is taken for its sake meanwhile
UNLOADS_S = 3600.0  # unloads within this long double the back-off
UNMEASURED_S = 60.0  # heat counts for this long after it could last be measured
BACK_OFF_S = (1.0, 300.0)  # shortest and longest

Cause = Literal["", "ours", "others"]


@dataclass(frozen=True)
class Policy:
    """The part of the spec that the ladder depends on. Seconds, and shares of the budget."""

    warning: Share
    critical: Share
    recover: Share
    dwell: float = 10.0
    ladder: tuple[str, ...] = names.LADDER
    hot: str = "heavy"  # thermal.enter
    cool: str = "moderate"  # thermal.leave

    @classmethod
    def of(cls, spec: Spec) -> Policy:
        memory, thermal = spec.memory, spec.thermal
        return cls(
            memory.warning, memory.critical, memory.recover, memory.dwell, memory.ladder,
            thermal.enter, thermal.leave,
        )  # fmt: skip


@dataclass(frozen=True)
class Pressure:
    """What is in force. Times on the clock of the readings; None: never.

    steps: a beginning of the ladder, in order. shed: models out of memory for `shed`, first one first.
    unloaded: the active model that `unload` ended. runaway: engines that must be ended at once.
    returns_at: the unloaded model may not come back before. why: one sentence with figures, for people; its
    words stay the same until the level, the cause or a step changes.
    """

    level: Level = "normal"
    cause: Cause = ""
    steps: tuple[str, ...] = ()
    shed: tuple[str, ...] = ()
    unloaded: str | None = None
    runaway: tuple[str, ...] = ()
    growing: tuple[Growth, ...] = ()
    hot: bool = False
    heat: str | None = None
    why: str = ""
    since: float | None = None  # the last change of steps, shed or unloaded
    calm_since: float | None = None  # calm without a break since then
    cool_since: float | None = None
    unloads: tuple[float, ...] = ()  # when, within the last hour
    returns_at: float = 0.0
    read_at: float | None = None  # of the newest reading taken up
    runaway_since: float | None = None
    ours: bool = False  # one of the steps in force was taken for our own use
    told: tuple[Level, Cause] = ("normal", "")  # level and cause as last reported
    untold_since: float | None = None  # they have differed from that since then

    @property
    def step(self) -> str | None:
        """The furthest step in force."""
        return self.steps[-1] if self.steps else None

    @property
    def strained(self) -> bool:
        """Whether heat or want of memory may slow engines down: what they do then is no fault of theirs."""
        return self.hot or bool(self.steps)

    def has(self, step: str) -> bool:
        """Whether a step is in force."""
        return step in self.steps


def context_cap(pressure: Pressure, spec: Spec) -> tuple[int | None, str]:
    """The most tokens per request while hot or short of memory, and why; None: no such limit."""
    reasons = [*(["thermal"] if pressure.hot else []), *(["memory"] if pressure.has("lower_context") else [])]
    if not reasons:
        return None, ""
    cap = spec.context.safe_mode
    return cap, f"{' and '.join(reasons)}: max_context_tokens={cap}"


def rows(pressure: Pressure, declared: int) -> int:
    """How many requests may be decoded together."""
    return max(1, declared // 2) if pressure.has("lower_concurrency") else declared


def advance(before: Pressure, reading: Reading, policy: Policy) -> Pressure:
    """One reading later. The same readings give the same states, whoever asks.

    A reading that is not newer than the last one changes nothing.
    """
    now = reading.at
    if before.read_at is not None and now <= before.read_at:
        return before
    level, cause = judge(reading, policy)
    grown = growing(before.growing, reading, policy.critical)
    wild = runaway(before.runaway, grown, reading, policy.critical)
    state = replace(
        before,
        level=level,
        cause=cause,
        calm_since=_since(before.calm_since, _calm(before, level, reading, policy), now),
        unloads=tuple(at for at in before.unloads if at > now - UNLOADS_S),
        read_at=now,
        runaway=wild,
        growing=grown,
        runaway_since=_since(before.runaway_since, bool(wild), now),
    )
    state = _tell(_heat(state, reading, policy), now, policy.dwell)
    edited = _edited(state, policy, now)
    if edited is not None:
        return edited
    state = _turn(state, reading, policy)
    return replace(state, why=_why(before, state, reading, policy))


# --- the level ---------------------------------------------------------------------------------------


def judge(reading: Reading, policy: Policy) -> tuple[Level, Cause]:
    """The worse of our use and the system's own pressure, and whose doing it is."""
    ours: Level = "normal"
    if reading.reaches(policy.critical):
        ours = "critical"
    elif reading.reaches(policy.warning):
        ours = "warning"
    if _rank(ours) >= _rank(reading.system):
        return ours, "ours" if ours != "normal" else ""
    return reading.system, "others"


def _rank(level: Level) -> int:
    return LEVELS.index(level)


def _calm(before: Pressure, level: Level, reading: Reading, policy: Policy) -> bool:
    """Whether a step may be undone, if it stays like this.

    Steps that only other programs caused wait for them alone: a model that fills its budget to just under
    `warning` would otherwise stay throttled for good after a stranger's one bad minute. So would one whose
    prompt cache fills what is free: that is lent, and no reason to stay on a step.
    """
    if level != "normal" or reading.budget_bytes <= 0:
        return False
    return not before.ours or not _without(reading, reading.lent_bytes).reaches(policy.recover)


def _since(before: float | None, holds: bool, now: float) -> float | None:
    """When something began to hold that may be broken off at any time."""
    return None if not holds else now if before is None else before


def _tell(state: Pressure, now: float, dwell: float) -> Pressure:
    """When to report a level: what is worse at once, what is better once it has lasted.

    Use that swings around a line four times a second would otherwise fill the events with nothing else.
    """
    found = (state.level, state.cause)
    if found == state.told:
        return replace(state, untold_since=None)
    since = now if state.untold_since is None else state.untold_since
    if _rank(state.level) > _rank(state.told[0]) or now - since >= dwell:
        return replace(state, told=found, untold_since=None)
    return replace(state, untold_since=since)


# --- heat --------------------------------------------------------------------------------------------


def _heat(state: Pressure, reading: Reading, policy: Policy) -> Pressure:
    """Hot at once, cool after `dwell`. Heat that is not measured any more holds for a minute."""
    if reading.heat is None:
        unknown_since = _since(state.cool_since, state.hot, reading.at)
        if unknown_since is not None and reading.at - unknown_since >= max(UNMEASURED_S, policy.dwell):
            return replace(state, heat=None, hot=False, cool_since=None)
        return replace(state, heat=None, cool_since=unknown_since)
    now, degree = reading.at, names.HEAT.index(reading.heat)
    cool_since = _since(state.cool_since, state.hot and degree <= names.HEAT.index(policy.cool), now)
    hot = degree >= names.HEAT.index(policy.hot) or state.hot
    if cool_since is not None and now - cool_since >= policy.dwell:
        hot, cool_since = False, None
    return replace(state, heat=reading.heat, hot=hot, cool_since=cool_since)


# --- the ladder ----------------------------------------------------------------------------------------


def _edited(state: Pressure, policy: Policy, now: float) -> Pressure | None:
    """With the steps that the ladder no longer begins with undone, if there are any."""
    kept = 0
    for step, wanted in zip(state.steps, policy.ladder, strict=False):
        if step != wanted:
            break
        kept += 1
    if kept == len(state.steps):
        return None
    undone = ", ".join(state.steps[kept:])
    why = f"memory.ladder was edited and no longer begins with what was in force: {undone}"
    return replace(_with(state, now, steps=state.steps[:kept]), why=why)


def _turn(state: Pressure, reading: Reading, policy: Policy) -> Pressure:
    """At most one change."""
    now = reading.at
    settled = state.since is None or now - state.since >= policy.dwell
    if _is_being_ended(state, reading, policy):
        return state
    if state.level == "critical" or (state.level == "warning" and settled):
        return _up(state, reading, policy)
    calm = state.calm_since is not None and now - state.calm_since >= policy.dwell
    if state.steps and calm and settled:
        return _down(state, now)
    return state


def _is_being_ended(state: Pressure, reading: Reading, policy: Policy) -> bool:
    """Whether ending the runaway engines is enough, so that nothing else has to give way."""
    if state.runaway_since is None or reading.at - state.runaway_since >= ENDING_S:
        return False
    gone = sum(engine.memory_bytes for engine in reading.engines if engine.id in state.runaway)
    return state.cause == "ours" and not _without(reading, gone).reaches(policy.warning)


def _without(reading: Reading, count: int) -> Reading:
    return replace(reading, used_bytes=reading.used_bytes - count)


def _up(state: Pressure, reading: Reading, policy: Policy) -> Pressure:
    """One more model shed, or one more step; or nothing, where the ladder ends."""
    now = reading.at
    following = policy.ladder[len(state.steps)] if len(state.steps) < len(policy.ladder) else None
    if state.cause == "others" and not TAKES_MODELS.isdisjoint((*state.steps, following)):
        return state
    taking = not _on_their_way(state, reading, policy)
    if taking and state.has("shed") and (state.step == "shed" or following is None):
        model = _next_to_shed(state, reading)
        if model is not None:
            return _with(state, now, shed=(*state.shed, model))
    if following == "unload" or following is None:
        if taking and state.level == "critical" and (following or state.has("unload")):
            return _unload(state, reading, policy)
        return state
    if following == "shed":
        if not taking:
            return state
        model = _next_to_shed(state, reading)
        return _with(state, now, steps=(*state.steps, "shed"), shed=(model,) if model else ())
    return _with(state, now, steps=(*state.steps, following))


def _on_their_way(state: Pressure, reading: Reading, policy: Policy) -> bool:
    """Whether what leaves already will be enough, so that no further model is taken out in vain.

    It gets `dwell` to give its memory back, counted from the last change.
    """
    if state.since is None or reading.at - state.since >= policy.dwell:
        return False
    gone = sum(engine.memory_bytes for engine in reading.engines if _leaves(state, engine))
    return not _without(reading, gone).reaches(policy.critical)


def _leaves(state: Pressure, engine: EngineReading) -> bool:
    out = engine.model in state.shed or engine.model == state.unloaded
    return engine.leaving or out or engine.id in state.runaway


def _next_to_shed(state: Pressure, reading: Reading) -> str | None:
    """Idle before busy, the lowest priority first, then the biggest. Never the model that is active."""
    active = {engine.model for engine in reading.engines if engine.active}
    models: dict[str, list[EngineReading]] = {}
    for engine in reading.engines:
        if engine.model not in active and not _leaves(state, engine):
            models.setdefault(engine.model, []).append(engine)

    def precedence(model: str) -> tuple[bool, int, int, str]:
        engines = models[model]
        size = sum(engine.memory_bytes for engine in engines)
        return any(e.busy for e in engines), min(e.priority for e in engines), -size, model

    return min(models, key=precedence, default=None)


def _unload(state: Pressure, reading: Reading, policy: Policy) -> Pressure:
    """The active model ends. Taken once more where another one has become active since and it is too much."""
    now = reading.at
    running = [e for e in reading.engines if e.active and not _leaves(state, e)]
    model = max(running, key=lambda e: (e.memory_bytes, e.model)).model if running else None
    if model is None:
        return state if state.has("unload") else _with(state, now, steps=(*state.steps, "unload"))
    unloads = (*state.unloads, now)
    shortest, longest = BACK_OFF_S
    pause = policy.dwell * 2.0 ** min(len(unloads) - 1, 30)
    return _with(
        state,
        now,
        steps=state.steps if state.has("unload") else (*state.steps, "unload"),
        unloaded=model,
        unloads=unloads,
        returns_at=now + min(longest, max(shortest, pause)),
    )


def _down(state: Pressure, now: float) -> Pressure:
    """The last step undone, or one of its models let back in: the last one shed comes first."""
    if state.step == "unload" and state.unloaded is not None and now < state.returns_at:
        return state
    if state.step == "shed" and len(state.shed) > 1:
        return replace(_with(state, now, shed=state.shed[:-1]), calm_since=now)
    return replace(_with(state, now, steps=state.steps[:-1]), calm_since=now)


def _with(
    state: Pressure,
    now: float,
    *,
    steps: tuple[str, ...] | None = None,
    shed: tuple[str, ...] | None = None,
    unloaded: str | None = None,
    unloads: tuple[float, ...] | None = None,
    returns_at: float | None = None,
) -> Pressure:
    """With another set of steps, and nothing left over of those that are gone."""
    steps = state.steps if steps is None else steps
    shed = state.shed if shed is None else shed
    return replace(
        state,
        steps=steps,
        shed=shed if "shed" in steps else (),
        unloaded=(unloaded or state.unloaded) if "unload" in steps else None,
        unloads=state.unloads if unloads is None else unloads,
        returns_at=state.returns_at if returns_at is None else returns_at,
        since=now,
        ours=bool(steps) and (state.ours or state.cause == "ours"),
    )


# --- words -----------------------------------------------------------------------------------------------


def _why(before: Pressure, state: Pressure, reading: Reading, policy: Policy) -> str:
    """The sentence of before, unless something has changed."""
    if state.level == "normal" and not state.steps:
        return ""
    kept = ("level", "cause", "steps", "shed", "unloaded")
    if all(getattr(before, name) == getattr(state, name) for name in kept):
        return before.why
    if state.level == "normal":
        return f"{our_use(reading)}; steps are undone below {_undone_below(state, policy)}"
    if state.cause == "others":
        what = reading.system_why or f"the system reports {state.level} memory pressure"
        use = f" use {size(reading.other_bytes)}" if reading.other_bytes else ""
        return f"other programs{use}: {what}; {our_use(reading)}"
    line = policy.critical if state.level == "critical" else policy.warning
    return f"{our_use(reading)}; {state.level} from {line}"


def _undone_below(state: Pressure, policy: Policy) -> str:
    return str(policy.recover if state.ours else policy.warning)


def our_use(reading: Reading) -> str:
    """Our use against the budget, in words."""
    used = f"LMX uses {size(reading.used_bytes)}"
    if reading.budget_bytes <= 0:
        return f"{used}; its budget is not known"
    part = reading.used_bytes / reading.budget_bytes
    return f"{used} of {size(reading.budget_bytes)} ({part:.1%})"


def size(count: int) -> str:
    """Bytes for people: three digits or so."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
