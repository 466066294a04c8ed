"""Question 5: which load may begin now, and does it go beside what runs or take its place? Pure.

One load at a time, so that memory is measured between two. Beside, when it fits next to everything
that is there at this moment; else what it replaces is drained first, but only if the room that this
makes is enough, and never for a form that has failed before while one that works is there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from reconciler.choice import RISING, Blocked, Blocks, Choice, Desired
from reconciler.digests import digest, own_digest
from reconciler.forms import Forms
from reconciler.observed import Observed
from reconciler.room import gib, present_bytes
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
    present = sum(weight.values())
    replaced = {choice.holding.id} if choice.holding is not None else set()
    if choice.why == "active":
        replaced |= {c.engine.id for c in choices if c.engine is not None and passing(c, choices)}
    leaving = weight.keys() - kept
    need = choice.size.at_floor
    fits = present + need <= limit
    if fits and not (strategy == "drain_first" and (replaced or leaving)):
        return choice, set()
    arithmetic = choice.size.arithmetic(choice.size.floor_context)
    if not replaced:
        if leaving:
            return None
        return choice, _too_little(
            f"{arithmetic} does not fit next to the {gib(present)} in use under {gib(limit)}", seen
        )
    if strategy == "beside":
        return choice, _too_little(
            f"swap.strategy is beside, and {arithmetic} does not fit next to the {gib(present)} in use under "
            f"{gib(limit)}; use swap.strategy auto or raise memory.budget",
            seen,
        )
    if choice.trial:
        return choice, known.would_interrupt(choice.form)
    gone = sum(weight[e] for e in replaced | leaving)
    if present - gone + need > limit:
        return choice, _too_little(
            f"{arithmetic} does not fit under {gib(limit)} even without what it replaces: "
            f"{gib(present - gone)} would still be in use",
            seen,
        )
    return choice, replaced


def _startable(choice: Choice, seen: Observed) -> bool:
    if choice.form is None or choice.size is None or choice.engine is not None:
        return False
    files = seen.files.get(digest(choice.form))
    return choice.size.problem is None and files is not None and files.state == "present"


def _too_little(message: str, seen: Observed) -> Blocked:
    return Blocked(
        "InsufficientMemory",
        "insufficient_memory",
        message,
        retry_at=seen.now + LOOK_AGAIN_S,
        brief="what runs leaves too little memory for it",
    )
