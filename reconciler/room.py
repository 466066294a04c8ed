"""Question 4: does it fit, once everything is done? Pure.

Room is given out in this order, each model at the least context it may have:

 1. pinned models that run as the spec has them: what stays loaded is not pushed out by an edit
 2. pinned models that have run before: what a drain, a crash or a restart took away comes back first
 3. on_demand models that are not yet `min_residency` old
 4. other pinned models, `active` first
 5. on_demand models on their way
 6. on_demand models that a request has waited for through half of `queue.timeout`
 7. on_demand models in use
 8. on_demand models that a request waits for
 9. idle ones

Whatever does not fit next to those before it is blocked, or paged out if it runs. What is left over is
then given, in order of precedence, to models whose context is `auto`. A model that left for want of memory
comes back only under `memory.recover`, not under `memory.warning`.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

from reconciler.choice import Blocked, Blocks, Choice, Desired
from reconciler.digests import digest, own_digest
from reconciler.forecast import budget
from reconciler.forms import OOM_UNLOADED, form_of
from reconciler.observed import EngineObs, EngineState, Observed
from reconciler.sizing import size_of
from reconciler.stand_in import passing

_TURNS = {"young": 3, "rising": 5, "overdue": 6, "busy": 7, "asked": 8, "idle": 9}


@dataclass(frozen=True)
class Room:
    """choices: with size and context. blocks: forms that have no room."""

    choices: list[Choice]
    blocks: Blocks


def give_room(desired: Desired, seen: Observed, choices: list[Choice], limit: int) -> Room:
    spec = desired.spec
    sized = [
        replace(c, size=size_of(c.form, seen.files.get(_digest_of(c)), spec)) if c.form is not None else c
        for c in choices
    ]
    blocks: dict[tuple[str, str], Blocked] = {}
    over: dict[str, Blocked] = {}
    taken = firm = 0
    until: list[float] = []
    ran = desired.good.models.keys() if desired.good is not None else frozenset()
    counted = [c for c in sized if c.form is not None and not passing(c, sized)]
    for choice in sorted(counted, key=lambda c: _turn(c, c.name in ran)):
        assert choice.form is not None
        assert choice.size is not None
        floor = floor_bytes(choice)
        if choice.size.problem is not None and _present(choice, seen):
            problem = Blocked("CannotForecast", "engine_failed", choice.size.problem)
            if choice.engine is None:
                blocks[choice.name, own_digest(choice.form)] = problem
            else:
                over[choice.name] = replace(problem, message=f"goes on as it ran, for {problem.message}")
        if choice.size.problem is not None and choice.engine is None:
            continue
        its_limit = limit_of(choice, desired, seen, limit)
        if taken + floor > its_limit:
            # What would go by itself, or may be made to go later, is no reason to give up.
            waits = firm + floor <= limit
            own = desired.strain.own_bytes
            found = _no_room(choice, its_limit, limit, taken, waits, until, own)
            if _stays(choice):
                over[choice.name] = replace(found, message=f"goes on running, but {found.message}")
            else:
                blocks[choice.name, own_digest(choice.form)] = found
                continue
        taken += floor
        if choice.hold == "pinned":
            firm += floor
        elif choice.until is not None and choice.hold == "young":
            until.append(choice.until)
    noted = [
        replace(c, blocked=over[c.name]) if c.name in over and c.blocked is None else c for c in sized
    ]  # fmt: skip
    return Room(_contexts(noted, max(0, limit - taken), over.keys()), blocks)


def limit_of(choice: Choice, desired: Desired, seen: Observed, limit: int) -> int:
    """What all engines together may use once this one is there too: less for one that has to come back."""
    if choice.engine is not None or choice.name not in desired.strain.returning:
        return limit
    memory = desired.spec.memory
    gap = memory.warning.fraction - memory.recover.fraction
    return limit - int(max(0.0, gap) * budget(memory.budget, seen.memory))


def floor_bytes(choice: Choice) -> int:
    """The least this choice takes. Of a running model whose files are gone: what it uses."""
    assert choice.size is not None
    if choice.size.problem is not None:
        return choice.engine.firm_bytes if choice.engine is not None else 0
    return choice.size.at_floor


def present_bytes(seen: Observed, choices: list[Choice], desired: Desired) -> dict[str, int]:
    """What each engine must be counted with now: what it uses, and at least what it was let in for.

    Without its prompt cache: that memory is lent, and given back before anything else loads (question 6).
    """
    sizes = {c.engine.id: c.size for c in choices if c.engine is not None and c.size is not None}
    out = {}
    for engine in seen.engines:
        if engine.state is EngineState.EXITED:
            continue
        size = sizes.get(engine.id)
        form = form_of(engine, desired) if size is None else None
        if form is not None:
            size = size_of(form, seen.files.get(engine.digest), desired.spec)
        if size is not None and size.problem is None:
            expected = size.at_floor
        else:
            expected = 0 if engine.info is not None else engine.forecast_bytes
        out[engine.id] = max(engine.firm_bytes, expected)
    return out


def _digest_of(choice: Choice) -> str:
    assert choice.form is not None
    return digest(choice.form)


def _turn(choice: Choice, has_run: bool) -> int:
    if choice.hold == "pinned":
        return 1 if choice.ready else 2 if has_run else 4
    return _TURNS[choice.hold]


def _stays(choice: Choice) -> bool:
    """It runs, and may not be pushed out."""
    return choice.ready and choice.hold in ("pinned", "young")


def _present(choice: Choice, seen: Observed) -> bool:
    files = seen.files.get(_digest_of(choice))
    return files is not None and files.state == "present"


def _no_room(
    choice: Choice, its_limit: int, limit: int, taken: int, waits: bool, until: list[float], own: int
) -> Blocked:
    assert choice.size is not None
    need = choice.size.arithmetic(choice.size.floor_context)
    if choice.size.problem is not None:
        need = f"it uses {gib(floor_bytes(choice))}"
    share = "warning" if its_limit == limit else "recover"
    message = (
        f"does not fit: {need}, {gib(max(0, its_limit - taken))} left of {gib(its_limit)} "
        f"(memory.budget x memory.{share}{f', less {gib(own)} for LMX itself' if own else ''})"
    )
    if taken:
        message += f" next to what stays loaded ({gib(taken)})"
    if its_limit != limit:
        message += "; it left for want of memory, and returns when it fits"
        brief = "it was taken out of memory, which was short, and returns when it fits under memory.recover"
        return Blocked(
            "OomUnloaded", OOM_UNLOADED, message, retry_at=min(until, default=None), waits=True, brief=brief
        )
    if not waits:
        return Blocked("InsufficientMemory", "insufficient_memory", message)
    message += "; on_demand models make room when they are idle"
    return Blocked(
        "InsufficientMemory", "insufficient_memory", message, retry_at=min(until, default=None), waits=True
    )


def _contexts(choices: list[Choice], spare: int, over: Set[str]) -> list[Choice]:
    out = []
    for choice in choices:
        if choice.form is None or choice.size is None:
            out.append(choice)
            continue
        if choice.size.problem is not None or passing(choice, choices):
            context, why = _as_it_runs(choice.engine), "until its successor is ready"
            if choice.size.problem is not None:
                why = choice.size.problem
        else:
            context, why = choice.size.context_in(choice.size.at_floor + spare)
            if choice.name in over and (running := _as_it_runs(choice.engine)):
                context, why = min(context, running), "there is no room for more"
            spare -= min(spare, choice.size.at(context) - choice.size.at_floor)
        out.append(replace(choice, context=context, context_why=why))
    return out


def _as_it_runs(engine: EngineObs | None) -> int:
    return engine.limits.context if engine is not None and engine.limits is not None else 0


def gib(count: int) -> str:
    if abs(count) >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.0f} MiB"
