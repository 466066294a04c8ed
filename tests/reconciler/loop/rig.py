"""The real loop, in a world of its own, with a file that a test edits and a memory that outlives it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reconciler.actions import Action
from reconciler.backoff import Ledger
from reconciler.conditions import Condition
from reconciler.events import Event, EventType
from reconciler.gate import Accepted, Parsed, SourceProblem, SpecProblem
from reconciler.known import Known
from reconciler.loader import SpecError, load_text
from reconciler.loop import ERROR_PAUSE_S, IDLE_LOOK_S, STRAINED_LOOK_S, Loop
from reconciler.observed import EngineState, OverrideObs
from reconciler.remembered import Memory
from reconciler.spec import Spec
from tests.reconciler.loop.world import SAMPLE_S, Engine, ProcessDied, World

EPOCH = 1_700_000_000.0
BARE = Spec.model_validate({"version": 1, "active": None, "models": {}})
MOST_STEPS = 400  # in a row without time passing: more is a loop that runs in circles


@dataclass(frozen=True)
class Text:
    data: bytes
    refused: None = None

    @property
    def content_digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def parse(data: bytes) -> Parsed:
    try:
        loaded = load_text(data, path=Path("lmx.yaml"), env={})
    except SpecError as error:
        raise SpecProblem(str(error)) from error
    return Parsed(loaded.spec, loaded.digest, loaded.warnings)


@dataclass
class MemoryStore:
    """`loop.Store` as if on a disk: what is in it survives the loop."""

    list: list[Event] = field(default_factory=list)
    generations: dict[int, Accepted] = field(default_factory=dict)
    good: int | None = None
    ledger: Ledger = field(default_factory=Ledger)
    overrides: tuple[OverrideObs, ...] = ()
    known: Known | None = None
    down: bool = False

    def add_event(self, event: Event) -> Event:
        self._up()
        numbered = Event(event.type, event.message, event.at, len(self.list) + 1, event.data)
        self.list.append(numbered)
        return numbered

    def save_ledger(self, ledger: Ledger, offset: float) -> None:
        self._up()
        self.ledger = ledger.shifted(offset)

    def save_overrides(self, overrides: tuple[OverrideObs, ...]) -> None:
        self._up()
        self.overrides = overrides

    def save_known(self, known: Known) -> None:
        self._up()
        self.known = known

    def accepted(self, accepted: Accepted, at: float) -> None:
        self._up()
        self.generations[accepted.generation] = accepted

    def applied(self, generation: int, at: float) -> None:
        self._up()
        self.good = generation

    def recall(self, offset: float) -> Memory:
        newest = max(self.generations, default=0)
        held = [g for g, a in self.generations.items() if not a.spec.suspend]
        call = next((o for o in self.overrides if o.kind == "suspend"), None)
        held = [g for g, a in self.generations.items() if call and a.digest == call.spec_digest] or held
        return Memory(
            accepted=self.generations.get(newest),
            good=self.generations.get(self.good) if self.good is not None else None,
            generation=newest,
            ledger=self.ledger.shifted(-offset),
            overrides=self.overrides,
            known=self.known,
            held=self.generations[max(held)] if held else None,
        )

    def _up(self) -> None:
        if self.down:
            raise OSError("no space left on device")


class Rig:
    """A world with a loop in it. Time passes only in `run` and `settle`."""

    def __init__(self, spec: dict[str, Any] | None = None, *, room: float = 10.0, store: Any = None) -> None:
        """room: GiB that engines may use together (memory.budget auto x memory.warning)."""
        self.world = World(room / 0.75 / 0.85 + 1e-6)
        self.store = store if store is not None else MemoryStore()
        self.text: bytes | None = None
        self.spec: dict[str, Any] = {}
        self.poked = True
        self.lose_pokes = False
        self.deaths = 0
        self._moved: tuple[Any, float] = ((), 0.0)
        self.errors: list[Exception] = []
        if spec is not None:
            self.write(spec)
        self.start()

    # --- the process ---------------------------------------------------------------------------------

    def start(self) -> None:
        offset = EPOCH - 1000.0  # the virtual clock goes on over restarts, as a wall clock does
        memory = self.recall(offset)
        self.loop = Loop(
            self.world,
            self.store,
            self._read,
            parse,
            wall=lambda: self.world.t + offset,
            fallback=BARE,
            memory=memory,
            on_known=self.store.save_known,
        )
        self.world.poke = self._poke
        self.world.quarantined = lambda key: self.loop.ledger.get(key).quarantined
        self.world.override = lambda name: self.loop.desired.override(name)
        self.world.out = lambda name: self.loop.strain.out(name)
        self.world.recycling = lambda ident: any(
            g.recycle == ident for g in self.loop.strain.guards.values()
        )  # fmt: skip
        self.poked = True

    def recall(self, offset: float) -> Memory:
        found: Memory = self.store.recall(offset)
        return found

    def restart(self, after: float = 0.5) -> None:
        """`kill -9` of the appliance, and `lmx up` a moment later."""
        self.world.all_die()
        self.world.crash_in = None
        self.world.advance(after)
        self.start()

    # --- the file ------------------------------------------------------------------------------------

    def write(self, spec: dict[str, Any] | bytes) -> None:
        """Save this; nothing else happens until time passes."""
        if isinstance(spec, bytes):
            self.text = spec
        else:
            self.spec = copy.deepcopy(spec)
            self.text = yaml.safe_dump(spec, sort_keys=False).encode()
        self._poke()

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        spec = copy.deepcopy(self.spec)
        change(spec)
        self.write(spec)

    def remove(self) -> None:
        self.text = None
        self._poke()

    def _read(self) -> Text:
        if self.text is None:
            raise SourceProblem("lmx.yaml is not there")
        return Text(self.text)

    # --- time ------------------------------------------------------------------------------------------

    def run(self, seconds: float, look: float = IDLE_LOOK_S) -> None:
        """What `Loop.run` does, on the virtual clock. look: seconds between idle looks."""
        end = self.world.t + seconds
        steps = 0
        while True:
            self.poked = False
            pause = self._pass()
            if pause == 0.0:
                steps += 1
                if steps > MOST_STEPS:
                    raise AssertionError(f"the loop runs in circles: {self.world.kinds()[-8:]}")
                continue
            steps = 0
            if self.poked:
                continue
            if self.world.t >= end:
                return
            if pause == STRAINED_LOOK_S or (self.world.notable() and not self.lose_pokes):
                pause = min(pause, SAMPLE_S if self._moves() else 2.0)  # the sampler pokes
            elif pause == IDLE_LOOK_S:
                pause = look
            ahead = self.world.next_event()
            until = min(end, self.world.t + pause, ahead if ahead is not None else end)
            self.world.advance(max(0.0, until - self.world.t) + 1e-6)

    def _moves(self) -> bool:
        """Whether looking often still makes a difference: nothing is in force for long in the same way."""
        found = self.loop.strain.pressure
        now = (found.steps, found.shed, found.unloaded, found.level, found.runaway)
        if now != self._moved[0] or self.world.notable():
            self._moved = (now, self.world.t)
        return self.world.t - self._moved[1] < 30.0

    def step(self) -> bool:
        """One pass, whatever it does."""
        coroutine = self.loop.step()
        try:
            coroutine.send(None)
        except StopIteration as done:
            return bool(done.value)
        raise AssertionError("the fake world never waits")

    def _pass(self) -> float:
        try:
            return self.loop._pause(self.step())
        except ProcessDied:
            self.deaths += 1
            self.restart()
            return 0.0
        except Exception as error:  # noqa: BLE001  as Loop.run does; tests look into `errors`
            self.errors.append(error)
            self.loop._report_error(error)
            return ERROR_PAUSE_S

    def _poke(self) -> None:
        if not self.lose_pokes:
            self.poked = True

    # --- looking ---------------------------------------------------------------------------------------

    def condition(self, kind: str) -> Condition:
        return self.loop.conditions[kind]

    @property
    def answers(self) -> str | None:
        """`name:source` of what the active route leads to, if it leads to a ready engine."""
        table = self.world.table
        return self.answer(table.active) if table.active is not None else None

    def answer(self, name: str) -> str | None:
        route = self.world.table.routes.get(name)
        engine = self.world.engines.get(route.engine or "") if route is not None else None
        if route is None or route.status != "ready" or engine is None:
            return None
        return f"{engine.model}:{engine.form.source}" if engine.state is EngineState.READY else None

    def engine(self, name: str) -> Engine:
        found = self.world.ready(name)
        assert found is not None, f"{name} is not ready: {[(e.id, e.state) for e in self.world.live()]}"
        return found

    @property
    def running(self) -> list[str]:
        return sorted(f"{e.model}:{e.form.source}" for e in self.world.live())

    def events(self, kind: EventType) -> list[str]:
        return [e.message for e in self.store.list if e.type is kind]

    def since(self, mark: int) -> list[Action]:
        return self.world.actions[mark:]

    def mark(self) -> int:
        return len(self.world.actions)

    def clean(self) -> None:
        assert not self.world.violations, self.world.violations[:3]
        assert not self.errors, self.errors[:3]


def small(letter: str = "a", /, **more: Any) -> dict[str, Any]:
    """A model that needs 1.7 GiB."""
    return {"source": f"./small-{letter}", "context": 4096, **more}


def medium(letter: str = "a", /, **more: Any) -> dict[str, Any]:
    """A model that needs 2.7 GiB."""
    return {"source": f"./medium-{letter}", "context": 4096, **more}


def large(letter: str = "a", /, **more: Any) -> dict[str, Any]:
    """A model that needs 4.7 GiB."""
    return {"source": f"./large-{letter}", "context": 4096, **more}


def spec(active: str | None, /, **models: Any) -> dict[str, Any]:
    """A spec; each model is its source, or a map with more."""
    found = {k: {"source": v} if isinstance(v, str) else dict(v) for k, v in models.items()}
    return {"version": 1, "active": active, "models": found, "server": {"port": 1234}}
