"""What an earlier run left in the history, read again with today's environment and rules."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import MappingProxyType

from reconciler.gate import Accepted, Parsed, SpecProblem
from reconciler.history import KEPT_GENERATIONS, Generation, History
from reconciler.known import Form, Known
from reconciler.remembered import Memory

log = logging.getLogger("lmx.state")

Parse = Callable[[bytes], Parsed]


def recall(history: History, parse: Parse, offset: float) -> Memory:
    """The loop's memory. offset: wall clock minus the loop's clock, seconds.

    A generation that today's rules or environment refuse is left out, and said in the log.
    """
    newest, last_good = history.newest(), history.last_good()
    good = _accepted(last_good, parse)
    return Memory(
        accepted=_accepted(newest, parse) or good,
        good=good,
        good_at=last_good.applied_at if last_good is not None else None,
        generation=newest.generation if newest is not None else 0,
        ledger=history.load_ledger(offset),
        overrides=history.load_overrides(),
        known=_known(history, parse),
        held=_accepted(history.in_force_when_suspended(), parse) or _before_suspension(history, parse),
    )


def _known(history: History, parse: Parse) -> Known | None:
    active, generations = history.known_generations()
    forms = {}
    for name, number in generations.items():
        found = _accepted(history.generation(number), parse)
        model = found.spec.models.get(name) if found is not None else None
        if model is not None:
            forms[name] = Form(number, model)
    return Known(active if active in forms else None, MappingProxyType(forms)) if forms else None


def _before_suspension(history: History, parse: Parse) -> Accepted | None:
    """The newest generation that is not suspended, if the newest of all is."""
    for number, stored in enumerate(history.generations(KEPT_GENERATIONS)):
        found = _accepted(stored, parse)
        if found is not None and not found.spec.suspend:
            return found if number else None
    return None


def _accepted(stored: Generation | None, parse: Parse) -> Accepted | None:
    if stored is None:
        return None
    try:
        parsed = parse(stored.text)
    except SpecProblem as error:
        log.warning("generation %d can no longer be used: %s", stored.generation, error)
        return None
    return Accepted(parsed.spec, stored.digest, stored.generation, stored.content_digest, stored.text)
