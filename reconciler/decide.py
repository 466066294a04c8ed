"""Which models should be loaded, in which form, and what stands in the way. Pure.

The questions, in this order (tests carry the numbers):

 1. Who is wanted? `active`, then `loaded` and load overrides by priority, then on_demand models that
    are busy or young, then those a request waits for, then idle ones. Unload overrides take out.
 2. In which form? The spec's. If that form is blocked and a rollback is allowed: the last good one.
 3. Who answers meanwhile? While `active` is not ready, the model that answers now stays (stand-in).
 4. Does it fit? Next to what stays loaded, under `memory.warning`. If not: blocked, nothing is drained.
 5. Beside or drain first? Beside when both fit at the same moment, else drain first. A form that has
    failed once is only tried again where that needs no interruption of the form that works.

A block found in 4 or 5 is a reason to ask 2 again; each round adds one, so this ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from reconciler.backoff import Ledger
from reconciler.observed import EngineObs, EngineState, Observed, OverrideObs
from reconciler.sizing import Size, limit_bytes, size_of
from reconciler.spec import Model, Spec

LIVE = frozenset({EngineState.STARTING, EngineState.LOADING, EngineState.PROBING, EngineState.READY})
RISING = frozenset({EngineState.STARTING, EngineState.LOADING, EngineState.PROBING})


@dataclass(frozen=True)
class Desired:
    """What is asked for: the accepted spec, the last-known-good one, and the overrides on top."""

    spec: Spec
    good: Spec | None = None
    overrides: tuple[OverrideObs, ...] = ()

    def override(self, name: str) -> str | None:
        return next((o.kind for o in self.overrides if o.model == name), None)


@dataclass(frozen=True)
class Blocked:
    """Why a form of a model cannot run now. retry_at None: only a change of inputs helps."""

    reason: str  # CamelCase, for conditions
    code: str  # the API's error code
    message: str
    retry_at: float | None = None

    @property
    def permanent(self) -> bool:
        return self.retry_at is None


@dataclass(frozen=True)
class Choice:
    """One model and what is decided about it."""

    name: str
    why: str  # active | loaded | override | on_demand | stand_in
    form: Model | None  # the form to run; None: none can
    fallback: bool = False
    blocked: Blocked | None = None  # what blocks the spec's own form
    engine: EngineObs | None = None  # the live engine of that form
    size: Size | None = None
    context: int = 0
    context_why: str = ""
    drain_first: bool = False  # others must go before this one can load
    start: bool = False  # nothing stands in the way: begin now


@dataclass(frozen=True)
class Decision:
    """choices: in order of precedence. held: engines that answer until their successor is ready."""

    choices: tuple[Choice, ...]
    stand_in: str | None
    held: frozenset[str]
    limit: int
    wake_at: float | None

    def get(self, name: str) -> Choice | None:
        return next((c for c in self.choices if c.name == name), None)


def decide(desired: Desired, seen: Observed, ledger: Ledger) -> Decision:
    """Answer the five questions. Raises nothing: what cannot be done is a `Blocked`."""
    extra: dict[str, Blocked] = {}
    while True:
        decision, found = _round(desired, seen, ledger, extra)
        fresh = {k: v for k, v in found.items() if k not in extra}
        if not fresh:
            return decision
        extra.update(fresh)


def forms(desired: Desired) -> Mapping[str, Model]:
    """Every form whose files matter, by digest."""
    models = list(desired.spec.models.values())
    if desired.good is not None:
        models += desired.good.models.values()
    return {m.digest: m for m in models}


def _round(
    desired: Desired, seen: Observed, ledger: Ledger, extra: Mapping[str, Blocked]
) -> tuple[Decision, dict[str, Blocked]]:
    spec = desired.spec
    chooser = _Chooser(desired, seen, ledger, extra)
    wanted = _wanted(desired, seen)
    choices = [chooser.choose(name, why) for name, why in wanted]

    stand_in = _stand_in(desired, seen, chooser, choices)
    if stand_in is not None:
        choices = [c for c in choices if c.name != stand_in.name]
        choices.insert(1 if choices and choices[0].why == "active" else 0, stand_in)

    limit = limit_bytes(spec, seen.memory)
    choices, held, found = _fit(desired, seen, ledger, chooser, choices, limit)
    return Decision(
        choices=tuple(choices),
        stand_in=stand_in.name if stand_in is not None else None,
        held=held,
        limit=limit,
        wake_at=_wake_at(choices, seen, spec),
    ), found


# --- 1. who is wanted ------------------------------------------------------------------------------


def _wanted(desired: Desired, seen: Observed) -> list[tuple[str, str]]:
    spec = desired.spec
    out: dict[str, str] = {}
    by_priority = sorted(spec.models, key=lambda n: (-spec.models[n].priority, n))

    def add(name: str, why: str) -> None:
        if name not in out and desired.override(name) != "unload":
            out[name] = why

    if spec.active is not None:
        add(spec.active, "active")
    for name in by_priority:
        if desired.override(name) == "load":
            add(name, "override")
        elif spec.models[name].residency == "loaded":
            add(name, "loaded")
    on_demand = [n for n in by_priority if spec.models[n].residency == "on_demand" and n not in out]
    running = {e.model: e for e in seen.engines if e.state in LIVE}
    in_use, idle = [], []
    for name in on_demand:
        engine = running.get(name)
        if engine is None:
            continue
        model = spec.models[name]
        quiet = seen.now - max(engine.since, seen.last_used.get(engine.id, engine.since))
        young = seen.now - engine.since < model.min_residency
        if engine.leases or young or name in seen.wanted or engine.state in RISING:
            in_use.append(name)
        elif quiet < model.idle_timeout:
            idle.append(name)
    asked = sorted((n for n in on_demand if n in seen.wanted), key=lambda n: (seen.wanted[n], n))
    for name in (*in_use, *asked, *idle):
        add(name, "on_demand")
    return list(out.items())


# --- 2. in which form ------------------------------------------------------------------------------


class _Chooser:
    def __init__(
        self, desired: Desired, seen: Observed, ledger: Ledger, extra: Mapping[str, Blocked]
    ) -> None:
        self.desired, self.seen, self.ledger, self.extra = desired, seen, ledger, extra

    def engine(self, name: str, form: Model) -> EngineObs | None:
        """The live engine of this form, the furthest along if there are two."""
        rank = {EngineState.READY: 0, EngineState.PROBING: 1, EngineState.LOADING: 2}
        mine = [
            e for e in self.seen.engines if e.model == name and e.digest == form.digest and e.state in LIVE
        ]
        return min(mine, key=lambda e: (rank.get(e.state, 3), e.id), default=None)

    def other_forms(self, name: str) -> Model | None:
        good = self.desired.good
        if good is None or not self.desired.spec.swap.rollback:
            return None
        spec_form = self.desired.spec.models.get(name)
        form = good.models.get(name)
        if form is None or (spec_form is not None and form.digest == spec_form.digest):
            return None
        return form

    def choose(self, name: str, why: str) -> Choice:
        form = self.desired.spec.models.get(name)
        blocked = None
        if form is not None:
            engine = self.engine(name, form)
            blocked = self.extra.get(form.own_digest)
            if engine is not None and (blocked is None or engine.state is EngineState.READY):
                return Choice(name, why, form, engine=engine)
            blocked = blocked or self.blockage(form) or self.patience(name, form)
            if blocked is None:
                return Choice(name, why, form)
        good = self.other_forms(name)
        if good is not None:
            engine = self.engine(name, good)
            if engine is not None or self.usable(good):
                return Choice(name, why, good, fallback=True, blocked=blocked, engine=engine)
        return Choice(name, why, None, blocked=blocked)

    def patience(self, name: str, form: Model) -> Blocked | None:
        """A form that has failed waits until its fallback, on its way already, is up."""
        record = self.ledger.get(form.own_digest)
        if not record.failures or record.last is None:
            return None
        good = self.other_forms(name)
        behind = self.engine(name, good) if good is not None else None
        if behind is None and name == self.desired.spec.active and self.desired.good is not None:
            other = self.desired.good.active
            if other is not None and other != name and other in self.desired.good.models:
                behind = self.engine(other, self.desired.good.models[other])
        if behind is None or behind.state not in RISING:
            return None
        return Blocked(
            _reason(record.last.reason),
            record.last.code,
            f"{record.last.message}; next try when {behind.model} is back",
            retry_at=self.seen.now + 1.0,
        )

    def usable(self, form: Model) -> bool:
        return form.own_digest not in self.extra and self.blockage(form) is None

    def blockage(self, form: Model) -> Blocked | None:
        files = self.seen.files.get(form.digest)
        if files is not None and files.state == "broken":
            return Blocked("ModelFilesBroken", "engine_failed", files.message or "its files are unusable")
        record = self.ledger.get(form.own_digest)
        last = record.last.message if record.last is not None else ""
        if record.quarantined:
            return Blocked(
                "Quarantined",
                "engine_failed",
                f"quarantined after {len(record.crashes)} crashes in ten minutes (last: {last}); "
                "edit the model in the spec or run `lmx reconcile`",
            )
        if record.permanent and record.last is not None:
            if files is None or files.fingerprint == record.fingerprint:
                return Blocked(_reason(record.last.reason), record.last.code, last)
        elif record.failures and record.retry_at > self.seen.now:
            seconds = record.retry_at - self.seen.now
            return Blocked(
                _reason(record.last.reason if record.last else "exit"),
                record.last.code if record.last else "engine_failed",
                f"{last}; next try in {seconds:.0f} s (failure {record.failures})",
                retry_at=record.retry_at,
            )
        return None


def _reason(word: str) -> str:
    return {
        "exit": "EngineExited",
        "crash": "EngineCrashed",
        "hang": "EngineHung",
        "load_failed": "LoadFailed",
        "probe_failed": "ProbeFailed",
        "oom": "OutOfMemory",
    }.get(word, "EngineFailed")


# --- 3. who answers meanwhile ----------------------------------------------------------------------


def _stand_in(desired: Desired, seen: Observed, chooser: _Chooser, choices: list[Choice]) -> Choice | None:
    """The model that answers instead of `active` until that is ready, or while it is blocked."""
    spec, good = desired.spec, desired.good
    active = spec.active
    if active is None or desired.override(active) == "unload":
        return None
    mine = next((c for c in choices if c.name == active), None)
    if mine is not None and mine.engine is not None and mine.engine.state is EngineState.READY:
        return None
    answering = seen.table.active
    if answering is not None and answering != active and desired.override(answering) != "unload":
        route = seen.table.routes.get(answering)
        engine = next((e for e in seen.engines if route and e.id == route.engine), None)
        if engine is not None and engine.state is EngineState.READY:
            form = _form_of(engine, desired)
            if form is not None:
                return Choice(answering, "stand_in", form, fallback=True, engine=engine)
    # Nobody answers. Bring the last good active back only when the spec's own cannot run.
    if mine is not None and mine.form is not None:
        return None
    if good is None or good.active is None or good.active == active or not spec.swap.rollback:
        return None
    if desired.override(good.active) == "unload" or good.active not in good.models:
        return None
    form = good.models[good.active]
    engine = chooser.engine(good.active, form)
    if engine is None and not chooser.usable(form):
        return None
    return Choice(good.active, "stand_in", form, fallback=True, engine=engine)


def _form_of(engine: EngineObs, desired: Desired) -> Model | None:
    for spec in (desired.spec, desired.good):
        form = spec.models.get(engine.model) if spec is not None else None
        if form is not None and form.digest == engine.digest:
            return form
    return None


# --- 4 and 5. does it fit, beside or drain first ---------------------------------------------------


def _fit(
    desired: Desired,
    seen: Observed,
    ledger: Ledger,
    chooser: _Chooser,
    choices: list[Choice],
    limit: int,
) -> tuple[list[Choice], frozenset[str], dict[str, Blocked]]:
    spec = desired.spec
    found: dict[str, Blocked] = {}
    sized = [
        replace(c, size=size_of(c.form, seen.files.get(c.form.digest), spec)) if c.form else c
        for c in choices
    ]
    transition = {c.name for c in sized if c.why == "stand_in" and _passing(c, sized)}
    held = _held(seen, sized, transition)

    # Room after everything is done: each wanted model at its floor, in order of precedence.
    out: list[Choice] = []
    taken = 0
    for choice in sized:
        if choice.form is None or choice.size is None:
            out.append(choice)
            continue
        if choice.name in transition:
            out.append(
                replace(
                    choice, context=_context(choice, limit)[0], context_why="until its successor is ready"
                )
            )
            continue
        if choice.size.problem is not None and choice.engine is None:
            files = seen.files.get(choice.form.digest)
            if files is not None and files.state == "present":
                found[choice.form.own_digest] = Blocked(
                    "CannotForecast", "engine_failed", choice.size.problem
                )
            out.append(choice)
            continue
        floor = choice.size.at_floor
        running = choice.engine is not None and choice.engine.state is EngineState.READY
        if taken + floor > limit and not running:
            message = (
                f"does not fit: {choice.size.arithmetic(choice.size.floor_context)}, "
                f"{_gib(limit - taken)} left of {_gib(limit)} (memory.budget x memory.warning)"
                + (f" next to what stays loaded ({_gib(taken)})" if taken else "")
            )
            found[choice.form.own_digest] = Blocked("InsufficientMemory", "insufficient_memory", message)
            out.append(choice)
            continue
        taken += floor
        out.append(choice)
    if found:
        return out, held, found

    spare = max(0, limit - taken)
    fitted: list[Choice] = []
    for choice in out:
        if choice.size is None or choice.name in transition:
            fitted.append(choice)
            continue
        context, why = _context(choice, choice.size.at_floor + spare)
        spare -= min(spare, choice.size.at(context) - choice.size.at_floor)
        fitted.append(replace(choice, context=context, context_why=why))

    return _start(desired, seen, ledger, chooser, fitted, held, limit)


def _passing(stand_in: Choice, choices: list[Choice]) -> bool:
    """The stand-in leaves as soon as its successor is ready, so it does not count in the final sum."""
    active = next((c for c in choices if c.why == "active"), None)
    return active is not None and active.form is not None


def _held(seen: Observed, choices: list[Choice], transition: set[str]) -> frozenset[str]:
    """Engines that answer now and whose successor is not ready yet."""
    held = {c.engine.id for c in choices if c.name in transition and c.engine is not None}
    for choice in choices:
        if choice.form is None:
            continue
        if choice.engine is not None and choice.engine.state is EngineState.READY:
            continue
        route = seen.table.routes.get(choice.name)
        if route is None or route.status != "ready":
            continue
        for engine in seen.engines:
            if engine.id == route.engine and engine.state is EngineState.READY:
                held.add(engine.id)
    return frozenset(held)


def _start(
    desired: Desired,
    seen: Observed,
    ledger: Ledger,
    chooser: _Chooser,
    choices: list[Choice],
    held: frozenset[str],
    limit: int,
) -> tuple[list[Choice], frozenset[str], dict[str, Blocked]]:
    strategy = desired.spec.swap.strategy
    sizes = {c.engine.id: c.size for c in choices if c.engine is not None and c.size is not None}
    present = sum(_present(e, sizes) for e in seen.engines if e.state is not EngineState.EXITED)
    kept = {c.engine.id for c in choices if c.engine is not None} | held
    leaving = [e for e in seen.engines if e.state is not EngineState.EXITED and e.id not in kept]
    busy = any(e.state in RISING and e.id in kept for e in seen.engines)
    found: dict[str, Blocked] = {}
    out = list(choices)
    for i, choice in enumerate(choices):
        if choice.form is None or choice.size is None or choice.engine is not None or busy:
            continue
        files = seen.files.get(choice.form.digest)
        if files is None or files.state != "present":
            continue
        mine_held = [e for e in seen.engines if e.id in held and _replaced_by(e, choice, choices)]
        fits_now = present + choice.size.at_floor <= limit
        if fits_now and not (strategy == "drain_first" and (mine_held or leaving)):
            out[i] = replace(choice, start=True)
            break
        if mine_held and strategy == "beside":
            found[choice.form.own_digest] = Blocked(
                "InsufficientMemory",
                "insufficient_memory",
                f"swap.strategy is beside, and {choice.size.arithmetic(choice.size.floor_context)} does "
                f"not fit next to the {_gib(present)} in use under {_gib(limit)}; "
                "use swap.strategy auto or raise memory.budget",
            )
            break
        if mine_held:
            record = ledger.get(choice.form.own_digest)
            if record.failures:
                found[choice.form.own_digest] = Blocked(
                    _reason(record.last.reason if record.last else "exit"),
                    record.last.code if record.last else "engine_failed",
                    f"{record.last.message if record.last else 'it failed'}; another try would interrupt "
                    "the model that works, so it waits for an edit or `lmx reconcile`",
                )
                break
            out[i] = replace(choice, drain_first=True)
            held = held - {e.id for e in mine_held}
            break
        if not leaving:
            # Nothing is about to go, and yet it does not fit now: what runs uses more than foreseen.
            found[choice.form.own_digest] = Blocked(
                "InsufficientMemory",
                "insufficient_memory",
                f"{choice.size.arithmetic(choice.size.floor_context)} does not fit next to the "
                f"{_gib(present)} in use under {_gib(limit)}",
                retry_at=seen.now + 5.0,
            )
        break  # one load at a time: memory is measured between two
    if not found:
        found = _needs_the_place_of_what_works(desired, seen, ledger, chooser, out, limit)
    return out, held, found


def _needs_the_place_of_what_works(
    desired: Desired,
    seen: Observed,
    ledger: Ledger,
    chooser: _Chooser,
    choices: list[Choice],
    limit: int,
) -> dict[str, Blocked]:
    """A form that failed in a drain-first swap must not push out its fallback while that comes back."""
    for choice in choices:
        if choice.form is None or choice.fallback or choice.size is None or choice.engine is not None:
            continue
        record = ledger.get(choice.form.own_digest)
        if not record.failures:
            continue
        good = chooser.other_forms(choice.name)
        if good is None and choice.why == "active" and desired.good is not None:
            name = desired.good.active
            good = desired.good.models.get(name) if name is not None and name != choice.name else None
        if good is None or not chooser.usable(good) or not desired.spec.swap.rollback:
            continue
        rival = size_of(good, seen.files.get(good.digest), desired.spec)
        together = choice.size.at_floor + rival.at_floor <= limit
        if together and desired.spec.swap.strategy != "drain_first":
            continue
        return {
            choice.form.own_digest: Blocked(
                _reason(record.last.reason if record.last else "exit"),
                record.last.code if record.last else "engine_failed",
                f"{record.last.message if record.last else 'it failed'}; another try would interrupt "
                "the model that works, so it waits for an edit or `lmx reconcile`",
            )
        }
    return {}


def _replaced_by(engine: EngineObs, choice: Choice, choices: list[Choice]) -> bool:
    """Would draining this held engine make room for this choice, and is it the one that replaces it?"""
    if engine.model == choice.name:
        return True
    stand_in = next((c for c in choices if c.why == "stand_in"), None)
    return (
        choice.why == "active"
        and stand_in is not None
        and stand_in.engine is not None
        and stand_in.engine.id == engine.id
    )


def _present(engine: EngineObs, sizes: Mapping[str, Size]) -> int:
    size = sizes.get(engine.id)
    return max(engine.memory_bytes, size.at_floor if size is not None else 0)


def _context(choice: Choice, room: int) -> tuple[int, str]:
    assert choice.size is not None
    return choice.size.context_in(room)


def _wake_at(choices: list[Choice], seen: Observed, spec: Spec) -> float | None:
    times = [c.blocked.retry_at for c in choices if c.blocked and c.blocked.retry_at is not None]
    for choice in choices:
        if choice.why != "on_demand" or choice.engine is None:
            continue
        model = spec.models[choice.name]
        engine = choice.engine
        used = max(engine.since, seen.last_used.get(engine.id, engine.since))
        times.append(max(used + model.idle_timeout, engine.since + model.min_residency))
    later = [t for t in times if t > seen.now]
    return min(later, default=None)


def _gib(count: int) -> str:
    if abs(count) >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.0f} MiB"
