"""A spec that is tried: held in memory over what the file says, and gone by itself (`lmx try`).

    begin ─▶ first plan ─▶ in force ─▶ confirmed (no deadline) ─┐
               │ it cannot run:    └────────────────────────────┴─▶ ended: the file is asked for again
               └─ nothing was touched ──────────────────────────────▶

It ends when its time is over, when a new generation of the file is accepted, when somebody ends it, and when
something it asks for can never run. A restart forgets it: nothing of it is ever written down, and forms that
ran in a try are not last-known-good. The loop owns it, like the overrides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reconciler.changes import Change, changes
from reconciler.choice import Choice
from reconciler.digests import own_digest
from reconciler.events import EventType
from reconciler.gate import Accepted
from reconciler.plan import Plan
from reconciler.spec import Spec

Emit = Callable[[EventType, str, Mapping[str, Any]], None]
SHOWN = 6  # changes that a message names
NEVER_LEARNED = 0  # the generation of forms that ran in a try: the history has none of that number


@dataclass(frozen=True)
class Tried:
    """at: wall clock. deadline: on the loop's clock; None: confirmed. what: "a try" or where it comes from.

    file: what was accepted when it began. by: who asked, in their own words and by address. text: the spec's
    own words. excused: forms that could not run before it either.
    """

    spec: Spec
    digest: str
    text: bytes
    file: Accepted
    what: str
    by: str
    at: float
    deadline: float | None
    changes: tuple[Change, ...]
    excused: frozenset[tuple[str, str]] = frozenset()
    planned: bool = False  # it has been judged once
    reached: bool = False  # everything it asks for has run once

    def in_words(self) -> str:
        """What differs, in one line."""
        shown = "; ".join(f"{c.path}: {c.old} -> {c.new}" for c in self.changes[:SHOWN])
        rest = len(self.changes) - SHOWN
        return f"{shown}; and {rest} more" if rest > 0 else shown


@dataclass(frozen=True)
class Ending:
    """code: the API's error code where it could not run, else ""."""

    why: str
    at: float
    code: str = ""


class Trial:
    """tried: the one that is in force. ending: of the last one. now: the loop's clock. wall: the world's."""

    def __init__(
        self,
        emit: Emit,
        now: Callable[[], float],
        wall: Callable[[], float],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.tried: Tried | None = None
        self.ending: Ending | None = None
        self._emit, self._now, self._wall, self._ended = emit, now, wall, ended

    def begin(
        self, spec: Spec, digest: str, text: bytes, file: Accepted, seconds: float, what: str, by: str,
        before: tuple[Spec, Plan | None],
    ) -> Tried:  # fmt: skip
        """In place of one that is in force already. before: what was asked for, and the last plan for it."""
        found = Tried(
            spec, digest, text, file, what, by, self._wall(), self._now() + seconds,
            changes(file.spec, spec), _blocked_before(*before),
        )  # fmt: skip
        self.tried, self.ending = found, None
        self._emit(
            EventType.TRY_BEGAN,
            f"{what} by {by} for {seconds:g} s: {found.in_words()}",
            {"by": by, "digest": digest, "seconds": seconds, "paths": [c.path for c in found.changes]},
        )
        return found

    def confirm(self, by: str) -> None:
        """No deadline any more."""
        assert self.tried is not None
        self.tried = replace(self.tried, deadline=None)
        self._emit(
            EventType.TRY_CONFIRMED,
            f"{self.tried.what} is kept by {by} until the file changes or LMX is started again",
            {"by": by, "digest": self.tried.digest},
        )

    def end(self, why: str, code: str = "") -> bool:
        """Whether there was one."""
        before = self.tried
        if before is None:
            return False
        self.tried, self.ending = None, Ending(why, self._wall(), code)
        self._ended()
        self._emit(EventType.TRY_ENDED, f"{before.what}: {why}", {"digest": before.digest, "why": why})
        return True

    def expire(self) -> bool:
        """End it where its time is over; whether it did."""
        left = self.left()
        return left is not None and left <= 0.0 and self.end("its time is over")

    def superseded(self, accepted: Accepted) -> None:
        """A new generation has come in."""
        if self.tried is not None:
            same = accepted.digest == self.tried.digest or accepted.spec == self.tried.spec
            self.end("the file says the same now" if same else "the file has changed")

    def left(self) -> float | None:
        """Seconds; None: no deadline."""
        deadline = self.tried.deadline if self.tried is not None else None
        return None if deadline is None else deadline - self._now()

    def until(self) -> float | None:
        """The deadline on the wall clock as it goes now."""
        left = self.left()
        return None if left is None else self._wall() + left

    @property
    def fresh(self) -> bool:
        """Whether nobody knows yet if it can run."""
        return self.tried is not None and not self.tried.planned

    def judged(self, spec: Spec, found: Plan) -> bool:
        """Look at a plan made for `spec`; True when it showed that the try cannot run, and so ended it."""
        tried = self.tried
        if tried is None or spec is not tried.spec:
            return False
        choices = [c for c in found.decision.choices if not _excused(c, tried)]
        for choice in choices:
            if choice.blocked is not None and _final(choice, reached=tried.reached):
                self.end(f"models.{choice.name} cannot run: {choice.blocked.message}", choice.blocked.code)
                return True
        reached = tried.reached or all(c.blocked is None and c.ready for c in choices)
        if (reached, True) != (tried.reached, tried.planned):
            self.tried = replace(tried, planned=True, reached=reached)
        return False


def _blocked_before(spec: Spec, plan: Plan | None) -> frozenset[tuple[str, str]]:
    names = [c.name for c in plan.decision.choices if c.blocked is not None] if plan is not None else []
    return frozenset((name, own_digest(spec.models[name])) for name in names if name in spec.models)


def _excused(choice: Choice, tried: Tried) -> bool:
    form = tried.spec.models.get(choice.name)
    return form is None or (choice.name, own_digest(form)) in tried.excused


def _final(choice: Choice, *, reached: bool) -> bool:
    """Whether waiting cannot help; at its beginning, also whether there is no room for it now."""
    assert choice.blocked is not None
    asked_by_clients = choice.why == "on_demand"
    no_room = choice.blocked.reason == "InsufficientMemory"
    if no_room and asked_by_clients:
        return False
    return choice.blocked.permanent or (no_room and not reached)
