"""Question 3: who answers while the active model is not ready? Pure.

The model that answers now goes on answering. If none does, and the active model cannot run, the one
that was active before is brought back; but no other is loaded for one that memory pressure took out.
"""

from __future__ import annotations

from reconciler.choice import Choice, Desired
from reconciler.forms import Forms, answering, form_of
from reconciler.observed import Observed


def with_stand_in(
    desired: Desired, seen: Observed, known: Forms, choices: list[Choice]
) -> tuple[list[Choice], str | None]:
    """The choices, and the name of the stand-in among them, if there is one.

    A stand-in that is pinned for its own sake too keeps its own choice: its place in memory, and its form,
    which an edit may be changing at the same time. So does one on demand that runs as the spec has it. In
    an older form, one on demand stays as it is for as long as it stands in.
    """
    found = _stand_in(desired, seen, known, choices)
    if found is None:
        return choices, None
    own = next((c for c in choices if c.name == found.name), None)
    if own is not None and own.form is not None:
        if own.hold == "pinned" or (own.engine is not None and own.engine == found.engine):
            return choices, found.name
    others = [c for c in choices if c.name != found.name]
    return [*others[:1], found, *others[1:]], found.name


def passing(stand_in: Choice, choices: list[Choice]) -> bool:
    """It leaves as soon as the active model is ready, so it needs no room beside that."""
    return stand_in.why == "stand_in" and any(c.why == "active" and c.form is not None for c in choices)


def _stand_in(desired: Desired, seen: Observed, known: Forms, choices: list[Choice]) -> Choice | None:
    active = desired.spec.active
    mine = next((c for c in choices if c.name == active), None)
    if active is None or mine is None or mine.ready:
        return None
    now = seen.table.active
    engine = answering(seen, now)
    if now is not None and now != active and engine is not None and _welcome(desired, now):
        form = form_of(engine, desired)
        if form is not None and _may_stay(desired, mine):
            return Choice(now, "stand_in", form, fallback=True, engine=engine)
    if mine.form is not None or mine.holding is not None or known.short_of_memory(active) is not None:
        return None
    before = known.before_active()
    if before is None:
        return None
    name, form = before
    if known.short_of_memory(name) is not None:
        return None
    engine = known.engine(name, form)
    if not known.may_run(name, form, engine):
        return None
    return Choice(name, "stand_in", form, fallback=True, engine=engine)


def _welcome(desired: Desired, name: str) -> bool:
    return desired.override(name) != "unload" and not desired.strain.out(name)


def _may_stay(desired: Desired, mine: Choice) -> bool:
    """Without rollback, nothing answers for a model that can never run."""
    return desired.spec.swap.rollback or mine.blocked is None or not mine.blocked.permanent
