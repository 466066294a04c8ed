"""What is known to run: for each model the newest form that did, and the newest `active` that answered.

This is what a rollback goes back to. It is kept for each model, not for the whole spec, because one
model that cannot run must not make the loop forget how well the others do. Pure: one observation after
the other is folded into it. A form that nobody asks for any more is forgotten with the next edit of its
model: nothing runs that could be lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from reconciler.choice import LIVE, Decision, Desired
from reconciler.digests import digest
from reconciler.observed import Observed
from reconciler.spec import Model, Spec


@dataclass(frozen=True)
class Form:
    """generation: of the spec that has the form, by which it is found again after a restart."""

    generation: int
    model: Model


@dataclass(frozen=True)
class Known:
    active: str | None = None
    forms: Mapping[str, Form] = field(default_factory=lambda: MappingProxyType({}))

    @staticmethod
    def of(spec: Spec, generation: int) -> Known:
        """What must have run for this spec to reach Ready."""
        forms = {
            name: Form(generation, model)
            for name, model in spec.models.items()
            if name == spec.active or model.residency == "loaded"
        }
        return Known(spec.active, MappingProxyType(forms))

    def as_spec(self, like: Spec) -> Spec:
        """The same as a spec: `Desired.good`."""
        models = {name: form.model for name, form in self.forms.items()}
        return like.model_copy(update={"active": self.active, "models": models})

    def learn(self, desired: Desired, generation: int, decision: Decision, seen: Observed) -> Known:
        """With what this pass has seen. The same object where nothing is new."""
        spec = desired.spec
        active = self.active
        mine = decision.get(spec.active) if spec.active is not None else None
        if spec.active is None:
            active = None
        elif mine is not None and mine.ready and not mine.fallback:
            active = spec.active
        forms = {name: form for name, form in self.forms.items() if name in spec.models or name == active}
        for name, model in spec.models.items():
            old = forms.get(name)
            if old is not None and old.model == model:
                continue
            choice = decision.get(name)
            if choice is not None and choice.ready and choice.form == model and choice.blocked is None:
                forms[name] = Form(generation, model)
            elif old is not None and not self._matters(name, old.model, desired, decision, seen):
                del forms[name]
        if active == self.active and forms == self.forms:
            return self
        return Known(active, MappingProxyType(forms))

    def _matters(self, name: str, old: Model, desired: Desired, decision: Decision, seen: Observed) -> bool:
        """Somebody may want the old form back: it runs, or its successor is still to come."""
        if name == self.active or decision.get(name) is not None or desired.override(name) is not None:
            return True
        return any(e.model == name and e.digest == digest(old) and e.state in LIVE for e in seen.engines)
