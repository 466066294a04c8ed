"""Which models should be loaded, in which form, and what stands in the way. Pure.

The questions, in this order, each with a module of its own (tests carry the numbers):

 1. Who is wanted?                `wanted`
 2. In which form?                `forms`
 3. Who answers meanwhile?        `stand_in`
 4. Does it fit?                  `room`
 5. Beside, or drain first?       `begin`
 6. Under which limits?           `ceilings`

What 4 and 5 find impossible is a reason to ask again from 2 on: another form may be chosen, or none.
Each round adds at least one such finding and there are only so many forms, so this ends.

An engine that `guard` wants replaced is looked past: its model starts anew, while it answers. Where that
cannot be, it is an engine like any other.
"""

from __future__ import annotations

from reconciler.backoff import Ledger
from reconciler.begin import begin
from reconciler.ceilings import ceilings
from reconciler.choice import LIVE, RISING, Blocked, Blocks, Choice, Decision, Desired
from reconciler.forms import Forms, forms, outdated
from reconciler.observed import EngineObs, EngineState, Observed
from reconciler.room import Room, give_room
from reconciler.sizing import limit_bytes
from reconciler.stand_in import with_stand_in
from reconciler.wanted import wanted

__all__ = ["LIVE", "RISING", "Blocked", "Choice", "Decision", "Desired", "decide", "forms"]


def decide(desired: Desired, seen: Observed, ledger: Ledger) -> Decision:
    """Answer the six questions. Raises nothing: what cannot be done is a `Blocked`."""
    old = _to_replace(desired, seen)
    if old is not None:
        found = _decide(desired, seen, ledger, old.id)
        choice = found.get(old.model)
        if choice is not None and choice.blocked is None:
            return found
    return _decide(desired, seen, ledger, None)


def _to_replace(desired: Desired, seen: Observed) -> EngineObs | None:
    """The engine that is to be replaced: one at a time, and first the one whose successor is there."""
    marked = {g.recycle for g in desired.strain.guards.values() if g.recycle is not None}
    marked |= {e.id for e in seen.engines if outdated(e, seen)}
    if not marked:
        return None
    found = [e for e in seen.engines if e.id in marked and e.state is EngineState.READY]

    def begun(old: EngineObs) -> bool:
        return any(
            e.model == old.model and e.digest == old.digest and e.id != old.id and e.state in LIVE
            for e in seen.engines
        )

    return min(found, key=lambda e: (not begun(e), e.id), default=None)


def _decide(desired: Desired, seen: Observed, ledger: Ledger, recycle: str | None) -> Decision:
    limit = max(0, limit_bytes(desired.spec, seen.memory) - desired.strain.own_bytes)
    firm: dict[tuple[str, str], Blocked] = {}
    while True:
        known, room, stand_in = _with_room(desired, seen, ledger, firm, limit, recycle)
        begun = begin(desired, seen, known, room.choices, limit)
        fresh = begun.blocks.keys() - firm.keys()
        if not fresh:
            break
        # Room that was made for this form is free again: ask 4 anew, without its findings so far.
        firm |= begun.blocks
    limited = ceilings(desired, seen, begun.choices, begun.kept, limit)
    return Decision(
        choices=tuple(limited.choices),
        stand_in=stand_in,
        held=begun.held,
        limit=limit,
        wake_at=_wake_at(limited.choices, seen),
        kept=begun.kept,
        limits=limited.limits,
    )


def _with_room(
    desired: Desired, seen: Observed, ledger: Ledger, firm: Blocks, limit: int, recycle: str | None
) -> tuple[Forms, Room, str | None]:
    """Questions 1 to 4, until every chosen form has its room."""
    wishes = wanted(desired, seen)

    def ask(blocks: Blocks) -> tuple[Forms, Room, str | None]:
        known = Forms(desired, seen, ledger, blocks, recycle)
        choices, stand_in = with_stand_in(desired, seen, known, [known.choose(wish) for wish in wishes])
        return known, give_room(desired, seen, choices, limit), stand_in

    blocks = dict(firm)
    while True:
        answer = ask(blocks)
        found = answer[1].blocks
        if not found.keys() - blocks.keys():
            break
        blocks |= found
    # What kept a form out may have been kept out itself, by another: so each is tried once more, in order.
    for key in [key for key in blocks if key not in firm]:
        fewer = {k: block for k, block in blocks.items() if k != key}
        again = ask(fewer)
        if not again[1].blocks:
            answer, blocks = again, fewer
    return answer


def _wake_at(choices: list[Choice], seen: Observed) -> float | None:
    times = [c.until for c in choices]
    times += [c.blocked.retry_at for c in choices if c.blocked is not None]
    return min((t for t in times if t is not None and t > seen.now), default=None)
