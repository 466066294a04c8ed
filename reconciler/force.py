"""Which spec is in force: what the file says, and what may lie between the file and the machine.

    file ─▶ accepted ─▶ held, while suspended ─▶ tried, for a while ─▶ overrides of single models
            gate.py     the one before           trial.py             overrides.py

Each answers for itself when it ends; here is only who lies over whom, and what a newly accepted file ends.
The loop owns it, and acts on `spec` and on nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Literal

from reconciler.gate import Accepted, Gate, Parsed
from reconciler.observed import OverrideObs
from reconciler.overrides import KINDS, Emit, Overrides
from reconciler.plan import Plan
from reconciler.remembered import Memory, Store
from reconciler.spec import Spec
from reconciler.trial import Trial, Tried


class Force:
    """gate: the file. now: the loop's clock; wall: the world's. fallback: in force until a file was accepted.

    poke: called when what is in force may have changed by a call. Not thread-safe, like the loop.
    """

    def __init__(
        self,
        gate: Gate,
        store: Store,
        memory: Memory,
        fallback: Spec,
        emit: Emit,
        now: Callable[[], float],
        wall: Callable[[], float],
        poke: Callable[[], None],
    ) -> None:
        self._gate, self._store, self._fallback, self._poke, self._wall = gate, store, fallback, poke, wall
        self._laid = Overrides(memory.overrides, store.save_overrides, emit, wall)
        self.trial = Trial(emit, now, wall, self._back_to_the_file)
        self._taken = memory.accepted  # the accepted spec whose consequences have been drawn
        self._held = memory.held or memory.good  # in force while `suspend` is true

    # --- what holds ----------------------------------------------------------------------------

    @property
    def spec(self) -> Spec:
        """The spec that is acted on: the tried one; while suspended, the one before; else the file's."""
        return self.trial.tried.spec if self.trial.tried is not None else self.untried

    @property
    def untried(self) -> Spec:
        """What is acted on when nothing is tried."""
        spec = self.file
        if not self.suspended:
            return spec
        if self._held is not None:
            return self._held.spec
        return spec.model_copy(update={"active": None, "models": {}, "skills": {}})  # nothing has ever run

    @property
    def file(self) -> Spec:
        """The file's spec: accepted, else the last good one, else a bare one that serves no model."""
        return self._gate.accepted.spec if self._gate.accepted is not None else self._fallback

    @property
    def accepted(self) -> Accepted | None:
        """The accepted content that is acted on when nothing is tried; None: none."""
        return self._held if self.suspended else self._gate.accepted

    @property
    def overrides(self) -> tuple[OverrideObs, ...]:
        """All that were laid."""
        return self._laid.laid

    @property
    def over(self) -> tuple[OverrideObs, ...]:
        """The overrides that hold over `spec`."""
        return self._laid.over(self.spec)

    @property
    def suspended(self) -> bool:
        """By the file or by an admin call."""
        return self.file.suspend or self._laid.suspension is not None

    @property
    def held_back(self) -> bool:
        """Whether the file says something that waits for the end of a suspension."""
        accepted, held = self._gate.accepted, self._held
        if accepted is None or not self.suspended:
            return False
        return self.file.suspend or held is None or held.digest != accepted.digest

    def suspended_by(self) -> tuple[str, str] | None:
        """Reason and message; the file's word comes first, since `lmx resume` cannot end that."""
        if self.file.suspend:
            return "SpecSays", "suspend is true: edits are read, nothing is changed"
        call = self._laid.suspension
        if call is None:
            return None
        return "AdminCall", f"suspended by {call.by}: edits are read, nothing is changed until `lmx resume`"

    def in_words(self) -> tuple[str, ...]:
        """What lies over the file, for people; a suspension has a condition of its own."""
        tried, until = self.trial.tried, self.trial.until()
        if tried is None:
            return self._laid.in_words()
        end = f"until {_clock(until)}" if until is not None else "until the file changes or LMX is restarted"
        return (*self._laid.in_words(), f"{tried.what} by {tried.by} {end}: {tried.in_words()}")

    # --- what changes it -----------------------------------------------------------------------

    def take(self) -> None:
        """Draw the consequences of a newly accepted file. Looked at in each pass, so none is ever missed."""
        accepted, before = self._gate.accepted, self._taken
        if accepted is None or accepted is before:
            return
        if before is None or before.generation != accepted.generation:
            self._store.accepted(accepted, self._wall())
            self.trial.superseded(accepted)
        if before is not None and not before.spec.suspend and self._laid.suspension is None:
            self._held = before
        self._laid.heed(self.untried)
        self._taken = accepted

    def remember(self, memory: Memory) -> None:
        """Go on from what another process has left."""
        self._laid.laid = memory.overrides
        self._taken, self._held = memory.accepted, memory.held or memory.good

    def override(self, model: str, kind: Literal["load", "unload"]) -> None:
        """Lay an admin call over the spec. Lasts until `active` or that model changes in the spec."""
        self._laid.lay(model, kind, self.spec)
        self._poke()

    def drain(self, until: float) -> None:
        """What `lmx drain` asks for: no new session; known ones are served until then, wall clock."""
        self._laid.drain(until, self.untried)
        self._poke()

    def suspend(self, by: str) -> None:
        """What `lmx suspend` asks for. What is in force stays in force, whatever the file says."""
        if not self.suspended:
            self._held = self._gate.accepted
        self._laid.suspend(self._held.digest if self._held is not None else "", by)
        self._poke()

    def clear(self, model: str | None = None, kinds: Collection[str] = KINDS) -> int:
        """How many overrides were cleared, of these kinds; of all models with None."""
        cleared = self._laid.clear(model, kinds)
        if cleared:
            self._laid.heed(self.untried)  # while suspended, no edit ended any
            self._poke()
        return cleared

    def try_out(
        self, parsed: Parsed, text: bytes, seconds: float, what: str, by: str, plan: Plan | None
    ) -> Tried:
        """Ask for this spec instead of the file's for so long. Something must have been accepted.

        plan: the last one made for what is in force.
        """
        assert self._gate.accepted is not None
        found = self.trial.begin(
            parsed.spec, parsed.digest, text, self._gate.accepted, seconds, what, by, (self.spec, plan)
        )
        self._poke()
        return found

    def _back_to_the_file(self) -> None:
        """A try is over. Admin calls made in it end with it, unless the file asks for the same."""
        self._laid.heed(self.untried)
        self._poke()


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S UTC", time.gmtime(at))
