"""The records that a decision is made of: what is asked for, and what is chosen for each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from reconciler.observed import EngineObs, EngineState, Limits, OverrideObs
from reconciler.sizing import Size
from reconciler.spec import Model, Spec
from reconciler.strain import Strain

LIVE = frozenset({EngineState.STARTING, EngineState.LOADING, EngineState.PROBING, EngineState.READY})
RISING = frozenset({EngineState.STARTING, EngineState.LOADING, EngineState.PROBING})

# How firmly a model keeps its place in memory. pinned: active, loaded, or loaded by an admin call. The
# others are on_demand: young (not yet `min_residency` old), rising (on its way), overdue (asked for, and a
# request has waited for half of `queue.timeout`), busy, asked for and not there yet, idle.
Hold = Literal["pinned", "young", "rising", "overdue", "busy", "asked", "idle"]


@dataclass(frozen=True)
class Desired:
    """What is asked for: the spec in force, what is known to run well, and the overrides on top.

    good: for each model the newest form that ran, and the newest `active` that answered (see `known`).
    """

    spec: Spec
    good: Spec | None = None
    overrides: tuple[OverrideObs, ...] = ()
    strain: Strain = field(default_factory=Strain)

    def override(self, name: str) -> str | None:
        return next((o.kind for o in self.overrides if o.model == name), None)


@dataclass(frozen=True)
class Blocked:
    """Why a form of a model cannot run now.

    message: for people; its words stay the same while the block lasts, unless `brief` does that instead.
    waits: it ends when something else in this machine changes, without anybody's doing. With neither
    that nor a retry_at, only a change of inputs helps.
    """

    reason: str  # CamelCase, for conditions
    code: str  # the API's error code
    message: str
    retry_at: float | None = None
    waits: bool = False
    brief: str = ""

    @property
    def lasting_words(self) -> str:
        """For the router's orders: figures that move would be new orders in each pass."""
        return self.brief or self.message

    @property
    def permanent(self) -> bool:
        return self.retry_at is None and not self.waits


# By model name and the digest of the form's own fields: two models may have the very same fields.
Blocks = Mapping[tuple[str, str], Blocked]


@dataclass(frozen=True)
class Wish:
    """A model that somebody wants in memory. until: when its hold changes with time alone."""

    name: str
    why: str  # active | loaded | override | on_demand
    hold: Hold = "pinned"
    until: float | None = None


@dataclass(frozen=True)
class Choice:
    """One model and what is decided about it."""

    name: str
    why: str  # active | loaded | override | on_demand | stand_in
    form: Model | None  # the form to run; None: none can
    fallback: bool = False
    blocked: Blocked | None = None  # what stands against the spec's own form
    former: Blocked | None = None  # form is None: what stands against the one that ran before
    engine: EngineObs | None = None  # the live engine of that form
    size: Size | None = None
    context: int = 0
    context_why: str = ""
    drain_first: bool = False  # others must go before this one can load
    start: bool = False  # nothing stands in the way: begin now
    hold: Hold = "pinned"
    until: float | None = None
    holding: EngineObs | None = None  # the engine of another form that answers until this one is ready
    trial: bool = False  # the form has failed before, and something that ran is to be had
    limits: Limits | None = None  # what its engine runs under; None: nothing can be computed
    concurrency_why: str = ""  # where that is not what the spec declares

    @property
    def ready(self) -> bool:
        return self.engine is not None and self.engine.state is EngineState.READY


@dataclass(frozen=True)
class Decision:
    """choices: in order of precedence.

    stand_in: the model that answers instead of `active`. held: engines that answer until their successor
    is ready. kept: all engines that stay; any other is drained and stopped. limits: of those, by id.
    """

    choices: tuple[Choice, ...]
    stand_in: str | None
    held: frozenset[str]
    limit: int
    wake_at: float | None
    kept: frozenset[str] = frozenset()
    limits: Mapping[str, Limits] = field(default_factory=dict)

    def get(self, name: str) -> Choice | None:
        return next((c for c in self.choices if c.name == name), None)

    def serving(self, name: str) -> EngineObs | None:
        """The engine that requests for this model go to."""
        choice = self.get(name)
        if choice is None:
            return None
        engine = choice.engine if choice.ready else choice.holding
        return engine if engine is not None and engine.id in self.kept else None
