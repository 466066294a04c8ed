"""Question 5: which load may begin now, and does it go beside what runs or take its place? Pure.

One load at a time, so that memory is measured between two, and none while memory is at critical. Beside,
when it fits next to everything that is there at this moment, in the budget and in what the machine has
free; else what it replaces is drained first, but only if the room that this makes is enough, and never for
a form that has failed before while one that works is there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from reconciler.choice import RISING, Blocked, Blocks, Choice, Desired
from reconciler.digests import digest, own_digest
from reconciler.forms import OOM_UNLOADED, Forms
from reconciler.observed import EngineObs, EngineState, Observed
from reconciler.room import gib, limit_of, present_bytes
from reconciler.stand_in import passing

LOOK_AGAIN_S = 5.0  # what runs uses more than was foreseen: that can change without any event


@dataclass(frozen=True)
class Begun:
    """kept: ids of all engines that stay. held: those of them that answer for a successor."""

    choices: list[Choice]
    held: frozenset[str]
    kept: frozenset[str]
    blocks: Blocks


def begin(desired: Desired, seen: Observed, known: Forms, choices: list[Choice], limit: int) -> Begun:
    held = {c.holding.id for c in choices if c.holding is not None}
    held |= {c.engine.id for c in choices if c.engine is not None and passing(c, choices)}
    kept = held | {c.engine.id for c in choices if c.engine is not None}
    found = _next(desired, seen, known, choices, kept, limit)
    if found is None:
        return Begun(choices, frozenset(held), frozenset(kept), {})
    choice, step = found
    if isinstance(step, Blocked):
        assert choice.form is not None
        block = {(choice.name, own_digest(choice.form)): step}
        return Begun(choices, frozenset(held), frozenset(kept), block)
    if any(e.state in RISING for e in seen.engines):
        # Not yet. But what stands against a form is said while another loads, too: else that other one,
        # which found room because this one is blocked, would lose it again.
        return Begun(choices, frozenset(held), frozenset(kept), {})
    if desired.strain.pressure.level == "critical":
        chosen = replace(choice, blocked=choice.blocked or _not_now(desired))
        step = set()
    else:
        chosen = replace(choice, start=not step, drain_first=bool(step))
    out = [chosen if c is choice else c for c in choices]
    return Begun(out, frozenset(held - step), frozenset(kept - step), {})


def _next(
    desired: Desired, seen: Observed, known: Forms, choices: list[Choice], kept: set[str], limit: int
) -> tuple[Choice, Blocked | set[str]] | None:
    """The choice whose turn it is, with what stands against it or the engines that must go for it."""
    choice = next((c for c in choices if _startable(c, seen)), None)
    if choice is None or choice.form is None or choice.size is None:
        return None
    strategy = desired.spec.swap.strategy
    weight = present_bytes(seen, choices, desired)
    there = [e for e in seen.engines if e.state is not EngineState.EXITED]
    used = {e.id: e.memory_bytes for e in there}
    lent = {e.id: e.memory_bytes - e.firm_bytes for e in there}
    replaced = {choice.holding.id} if choice.holding is not None else set()
    if choice.why == "active":
        replaced |= {c.engine.id for c in choices if c.engine is not None and passing(c, choices)}
    leaving = weight.keys() - kept
    need = choice.size.at_floor
    room = _Room(need, limit_of(choice, desired, seen, limit), sum(weight.values()), seen)
    if room.fits(0, sum(lent.values())) and not (strategy == "drain_first" and (replaced or leaving)):
        return choice, set()
    arithmetic = choice.size.arithmetic(choice.size.floor_context)
    returning = choice.name in desired.strain.returning
    if not replaced:
        if leaving:
            return None
        return choice, _too_little(room.words(arithmetic, 0, sum(lent.values())), seen, returning)
    if strategy == "beside":
        words = room.words(arithmetic, 0, sum(lent.values()))
        words = f"swap.strategy is beside, and {words}; use swap.strategy auto or raise memory.budget"
        return choice, _too_little(words, seen, returning)
    if choice.trial:
        return choice, known.would_interrupt(choice.form)
    goes = replaced | leaving
    gone, freed = sum(weight[e] for e in goes), sum(used[e] if e in goes else lent[e] for e in used)
    if not room.fits(gone, freed):
        return choice, _too_little(room.words(arithmetic, gone, freed), seen, returning)
    return choice, replaced


@dataclass(frozen=True)
class _Room:
    """Bytes. need: of the newcomer. present: what engines must be counted with now."""

    need: int
    limit: int
    present: int
    seen: Observed

    def fits(self, gone: int, freed: int) -> bool:
        """Once engines that count with `gone` have left, and `freed` is free that was not: what those used,
        and the prompt caches of the others."""
        return self._in_budget(gone) and self._in_machine(freed)

    def words(self, arithmetic: str, gone: int, freed: int) -> str:
        """Why it does not fit."""
        if not self._in_budget(gone):
            if not gone:
                return (
                    f"{arithmetic} does not fit next to the {gib(self.present)} in use under "
                    f"{gib(self.limit)}"
                )
            return (
                f"{arithmetic} does not fit under {gib(self.limit)} even without what it replaces: "
                f"{gib(self.present - gone)} would still be in use"
            )
        memory = self.seen.memory
        others = max(0, memory.total_bytes - memory.available_bytes - memory.used_bytes)
        return (
            f"{arithmetic} does not fit into the {gib(memory.available_bytes + freed)} that this machine has "
            f"free{' then' if freed else ''}: other programs hold {gib(others)}"
        )

    def _in_budget(self, gone: int) -> bool:
        return self.present - gone + self.need <= self.limit

    def _in_machine(self, freed: int) -> bool:
        memory = self.seen.memory
        return memory.total_bytes == 0 or self.need <= memory.available_bytes + freed


def _not_now(desired: Desired) -> Blocked:
    return Blocked(
        "MemoryPressure",
        "insufficient_memory",
        f"nothing is loaded while memory is at critical: {desired.strain.pressure.why}",
        waits=True,
        brief="nothing is loaded while memory is at critical",
    )


def _ends_by_itself(engine: EngineObs) -> bool:
    """It is on its way out and nobody asked it to: whether that is a reason to wait is not known yet.

    Another one of the same form now would get around its back-off and its quarantine.
    """
    return engine.state is EngineState.STOPPING and engine.stop_reason is None


def _startable(choice: Choice, seen: Observed) -> bool:
    if choice.form is None or choice.size is None or choice.engine is not None:
        return False
    if any(_ends_by_itself(e) and e.own_digest == own_digest(choice.form) for e in seen.engines):
        return False
    files = seen.files.get(digest(choice.form))
    return choice.size.problem is None and files is not None and files.state == "present"


def _too_little(message: str, seen: Observed, returning: bool) -> Blocked:
    return Blocked(
        "OomUnloaded" if returning else "InsufficientMemory",
        OOM_UNLOADED if returning else "insufficient_memory",
        message,
        retry_at=seen.now + LOOK_AGAIN_S,
        brief="what runs leaves too little memory for it",
    )
