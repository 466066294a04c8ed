"""Which models should be loaded, in which form, and what stands in the way. Pure.

The questions, in this order, each with a module of its own (tests carry the numbers):

 1. Who is wanted?                `wanted`
 2. In which form?                `forms`
 3. Who answers meanwhile?        `stand_in`
 4. Does it fit?                  `room`
 5. Beside, or drain first?       `begin`

What 4 and 5 find impossible is a reason to ask again from 2 on: another form may be chosen, or none.
Each round adds at least one such finding and there are only so many forms, so this ends.
"""

from __future__ import annotations

from reconciler.backoff import Ledger
from reconciler.begin import begin
from reconciler.choice import LIVE, RISING, Blocked, Blocks, Choice, Decision, Desired
from reconciler.forms import Forms, forms
from reconciler.observed import Observed
from reconciler.room import Room, give_room
from reconciler.sizing import limit_bytes
from reconciler.stand_in import with_stand_in
from reconciler.wanted import wanted

__all__ = ["LIVE", "RISING", "Blocked", "Choice", "Decision", "Desired", "decide", "forms"]


def decide(desired: Desired, seen: Observed, ledger: Ledger) -> Decision:
    """Answer the five questions. Raises nothing: what cannot be done is a `Blocked`."""
    limit = limit_bytes(desired.spec, seen.memory)
    firm: dict[tuple[str, str], Blocked] = {}
    while True:
        known, room, stand_in = _with_room(desired, seen, ledger, firm, limit)
        begun = begin(desired, seen, known, room.choices, limit)
        fresh = begun.blocks.keys() - firm.keys()
        if not fresh:
            break
        # Room that was made for this form is free again: ask 4 anew, without its findings so far.
        firm |= begun.blocks
    return Decision(
        choices=tuple(begun.choices),
        stand_in=stand_in,
        held=begun.held,
        limit=limit,
        wake_at=_wake_at(begun.choices, seen),
        kept=begun.kept,
    )


def _with_room(
    desired: Desired, seen: Observed, ledger: Ledger, firm: Blocks, limit: int
) -> tuple[Forms, Room, str | None]:
    """Questions 1 to 4, until every chosen form has its room."""
    wishes = wanted(desired, seen)

    def ask(blocks: Blocks) -> tuple[Forms, Room, str | None]:
        known = Forms(desired, seen, ledger, blocks)
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
