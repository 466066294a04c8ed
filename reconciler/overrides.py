"""Admin calls that lie over the spec: `lmx load`, `unload`, `drain` and `suspend`, until they are cleared or
the spec says otherwise. The loop owns them; what they ask for is decided elsewhere. They survive a restart;
what is tried (`trial.py`) does not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from reconciler.digests import own_digest
from reconciler.events import EventType
from reconciler.observed import OverrideObs
from reconciler.spec import Spec

Emit = Callable[[EventType, str, Mapping[str, Any]], None]
KINDS = ("load", "unload", "drain", "suspend")
_WHOLE = ("drain", "suspend")  # for the whole appliance


class Overrides:
    """laid: one per model at most, one drain and one suspension. save: stores them, so that they survive a
    restart. wall: seconds since the epoch."""

    def __init__(
        self,
        laid: tuple[OverrideObs, ...],
        save: Callable[[tuple[OverrideObs, ...]], None],
        emit: Emit,
        wall: Callable[[], float],
    ) -> None:
        self.laid = laid
        self._save, self._emit, self._wall = save, emit, wall

    def lay(self, model: str, kind: Literal["load", "unload"], spec: Spec) -> None:
        """Lasts until `active` or that model changes in the spec."""
        found = OverrideObs(model=model, kind=kind, at=self._wall(), spec_digest=key_of(spec, model))
        self._set((*(o for o in self.laid if o.model != model), found))
        self._emit(EventType.OVERRIDE_SET, f"{kind} {model}", {"model": model, "kind": kind})

    def drain(self, until: float, spec: Spec) -> None:
        """No new session; those that are known are served until then, wall clock. Lasts until it is
        cleared, or `active` changes in the spec."""
        found = OverrideObs("", "drain", self._wall(), key_of(spec, ""), until)
        self._set((*(o for o in self.laid if o.kind != "drain"), found))
        left = max(0.0, until - self._wall())
        self._emit(
            EventType.DRAINED,
            f"new sessions are turned away; known ones are served for {left:.0f} s",
            {"until": until},
        )

    def suspend(self, digest: str, by: str) -> None:
        """Nothing is changed any more, until somebody resumes. digest: of the spec that stays in force."""
        found = OverrideObs("", "suspend", self._wall(), digest, by=by)
        self._set((*(o for o in self.laid if o.kind != "suspend"), found))
        self._emit(EventType.OVERRIDE_SET, f"suspend, by {by}", {"model": "", "kind": "suspend", "by": by})

    @property
    def suspension(self) -> OverrideObs | None:
        return next((o for o in self.laid if o.kind == "suspend"), None)

    def over(self, spec: Spec) -> tuple[OverrideObs, ...]:
        """Those that hold over this spec. One that is only tried does not end the others: they rest."""
        return tuple(o for o in self.laid if o.kind in _WHOLE or o.spec_digest == key_of(spec, o.model))

    def clear(self, model: str | None, kinds: Collection[str] = KINDS) -> int:
        """How many were cleared, of these kinds; of all models with None."""
        kept = tuple(o for o in self.laid if o.kind not in kinds or (model is not None and o.model != model))
        gone = [o for o in self.laid if o not in kept]
        if gone:
            self._set(kept)
            for override in gone:
                self._tell_cleared(override, "cleared")
        return len(gone)

    def heed(self, spec: Spec) -> None:
        """Drop those that a newly accepted spec ends. One that allows none leaves nobody to clear them."""
        deny = spec.server.overrides == "deny"
        kept = tuple(
            o
            for o in self.laid
            if o.kind == "suspend" or (not deny and o.spec_digest == key_of(spec, o.model))
        )
        for override in self.laid:
            if override not in kept:
                why = "server.overrides is deny now" if deny else "the spec now says otherwise"
                self._tell_cleared(override, why)
        if kept != self.laid:
            self._set(kept)

    def in_words(self) -> tuple[str, ...]:
        """Each of them, for people; a suspension has a condition of its own."""
        return tuple(_in_words(override) for override in self.laid if override.kind != "suspend")

    def _tell_cleared(self, override: OverrideObs, why: str) -> None:
        self._emit(EventType.OVERRIDE_CLEARED, f"{_in_words(override)}: {why}", {"model": override.model})
        if override.kind == "drain":
            self._emit(EventType.DRAINED, f"new sessions are taken again: {why}", {"until": None})

    def _set(self, laid: tuple[OverrideObs, ...]) -> None:
        self.laid = laid
        self._save(laid)


def _in_words(override: OverrideObs) -> str:
    return f"{override.kind} {override.model}".rstrip()


def key_of(spec: Spec, model: str) -> str:
    """What an override of this model depends on: `active` and the model's own fields."""
    form = spec.models.get(model)
    return f"{spec.active}:{own_digest(form) if form is not None else ''}"
