"""Whatever happens: once edits and faults stop, the loop reaches what the file asks for, and stays there.

Hypothesis drives the real loop through a fake world: edits good and bad, crashes of engines and of the
loop itself after any effect, lost and doubled pokes, old observations, files that break and heal, ports
that are taken, requests that come and go, other programs that take the memory, engines that allocate
without end, heat, and models that are too slow. What must never happen on the way is checked by the world.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from reconciler.actions import Bind, Drain
from reconciler.backoff import CAP_S
from reconciler.ceilings import COPIES
from reconciler.forecast import PROCESS, budget
from reconciler.names import LADDER
from reconciler.observed import EngineState
from reconciler.readings import Service
from reconciler.sizing import limit_bytes, size_of
from tests.reconciler.loop.rig import Rig, parse, spec
from tests.reconciler.loop.world import Engine

NAMES = ("a", "b", "c")
SOURCES = ("./small-a", "./small-b", "./medium-a", "./large-a", "org/hub-a")
LADDERS = [list(LADDER), list(LADDER), ["shed", "unload"], ["lower_context"], []]
FAILED = ("LoadFailed", "ProbeFailed", "EngineCrashed", "EngineExited", "EngineHung", "OutOfMemory")
EXAMPLES = int(os.environ.get("CONVERGENCE_EXAMPLES", "150"))
FIRST = spec("a", a="./small-a", b={"source": "./small-b", "residency": "on_demand"}, c="./medium-a")

names, sources = st.sampled_from(NAMES), st.sampled_from(SOURCES)


class Convergence(RuleBasedStateMachine):
    rig: Rig

    @initialize(memory=st.sampled_from([3.6, 4.5, 6.0, 8.0, 16.0]))
    def boot(self, memory: float) -> None:
        first = copy.deepcopy(FIRST)
        first["models"]["a"]["context"] = 4096
        self.rig = Rig(first, room=memory * 0.85)

    # --- edits -------------------------------------------------------------------------------------

    def _edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        self.rig.edit(change)

    @rule(name=names)
    def activate(self, name: str) -> None:
        def change(s: dict[str, Any]) -> None:
            s["active"] = name if name in s["models"] else next(iter(s["models"]), None)

        self._edit(change)

    @rule()
    def deactivate(self) -> None:
        self._edit(lambda s: s.update(active=None))

    @rule(name=names, source=sources, context=st.sampled_from(["auto", 4096, 4096, 16384]))
    def declare(self, name: str, source: str, context: Any) -> None:
        def change(s: dict[str, Any]) -> None:
            s["models"].setdefault(name, {}).update(source=source, context=context)

        self._edit(change)

    @rule(name=names, residency=st.sampled_from(["loaded", "on_demand", "disk"]))
    def reside(self, name: str, residency: str) -> None:
        def change(s: dict[str, Any]) -> None:
            if name in s["models"]:
                s["models"][name]["residency"] = residency

        self._edit(change)

    @rule(name=names)
    def undeclare(self, name: str) -> None:
        def change(s: dict[str, Any]) -> None:
            s["models"].pop(name, None)
            if s["active"] == name:
                s["active"] = next(iter(s["models"]), None)

        self._edit(change)

    @rule(name=names, rows=st.sampled_from([1, 4, 8]))
    def tune(self, name: str, rows: int) -> None:
        def change(s: dict[str, Any]) -> None:
            if name in s["models"]:
                s["models"][name]["concurrency"] = rows

        self._edit(change)

    @rule(
        strategy=st.sampled_from(["auto", "beside", "drain_first"]),
        rollback=st.sampled_from([True, True, False]),
    )
    def swap_settings(self, strategy: str, rollback: bool) -> None:
        swap = {"strategy": strategy, "rollback": rollback, "drain_timeout": "20s"}
        self._edit(lambda s: s.update(swap=swap))

    @rule(
        budget=st.sampled_from(["auto", "auto", "3GiB", "6GiB", "12GiB"]),
        ladder=st.sampled_from(LADDERS),
        dwell=st.sampled_from(["1s", "10s"]),
    )
    def budget(self, budget: str, ladder: list[str], dwell: str) -> None:
        self._edit(lambda s: s.update(memory={"budget": budget, "ladder": ladder, "dwell": dwell}))

    @rule(port=st.sampled_from([1234, 1235, 1236]))
    def move(self, port: int) -> None:
        self._edit(lambda s: s["server"].update(port=port))

    @rule(on=st.booleans())
    def suspend(self, on: bool) -> None:
        self._edit(lambda s: s.update(suspend=on))

    @rule(text=st.sampled_from([b"", b"version: 1\nactive: nobody\nmodels: {}\n", b"\xff", b"models: ["]))
    def spoil(self, text: bytes) -> None:
        self.rig.write(text)

    @rule()
    def vanish(self) -> None:
        self.rig.remove()

    @rule()
    def mend(self) -> None:
        self.rig.write(self.rig.spec)

    # --- time, and what the loop makes of it ---------------------------------------------------------

    @rule(seconds=st.sampled_from([0.05, 0.5, 3.0, 10.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.rig.run(seconds)

    @rule(count=st.integers(1, 4))
    def look(self, count: int) -> None:
        """Pokes that nobody needed."""
        self.rig.run(0)
        for _ in range(count):
            self.rig.world.poke()
            self.rig.run(0)

    @rule(seconds=st.sampled_from([0.5, 8.0]))
    def deafen(self, seconds: float) -> None:
        """Pokes are lost, and the loop looks only when it would anyway."""
        self.rig.lose_pokes = True
        self.rig.run(seconds)
        self.rig.lose_pokes = False

    @rule(back=st.lists(st.integers(0, 6), min_size=1, max_size=8), seconds=st.sampled_from([0.01, 5.0]))
    def old_news(self, back: list[int], seconds: float) -> None:
        """The next observations are so many snapshots old, whatever is going on."""
        self.rig.world.stale = list(back)
        self.rig.run(seconds)

    @rule(name=names, source=sources, back=st.lists(st.integers(0, 6), min_size=4, max_size=12))
    def swap_on_old_news(self, name: str, source: str, back: list[int]) -> None:
        self.declare(name, source, 4096)
        self.activate(name)
        self.old_news(back, 10.0)

    # --- faults ------------------------------------------------------------------------------------

    @rule(pick=st.integers(0, 5), reason=st.sampled_from(["crash", "hang", "exit"]))
    def crash_engine(self, pick: int, reason: str) -> None:
        found = [e for e in self.rig.world.engines.values() if e.state is not EngineState.EXITED]
        if found:
            self.rig.world.crash(found[pick % len(found)].id, reason)

    @rule(actions=st.integers(1, 5), seconds=st.sampled_from([0.5, 10.0]))
    def die_soon(self, actions: int, seconds: float) -> None:
        self.rig.world.crash_in = actions
        self.rig.run(seconds)
        self.rig.world.crash_in = None

    @rule()
    def die(self) -> None:
        self.rig.restart()

    @rule(
        source=sources,
        fate=st.sampled_from(["ok", "fails", "fails_for_ever", "probe_fails", "crashes_loading"]),
    )
    def change_fate(self, source: str, fate: Any) -> None:
        behind = self.rig.world.sources[source]
        if behind.fate == "fails_for_ever":
            behind.replaced()
        behind.fate = fate

    @rule(
        name=names,
        source=st.sampled_from(SOURCES[:2]),
        fate=st.sampled_from(["fails", "fails_for_ever", "probe_fails", "crashes_loading"]),
    )
    def bad_swap(self, name: str, source: str, fate: Any) -> None:
        """An edit that asks for what does not load."""
        self.change_fate(source, fate)
        self.declare(name, source, 4096)
        self.activate(name)
        self.endure()

    @rule(source=st.sampled_from(SOURCES[:-1]), breaks=st.booleans())
    def break_files(self, source: str, breaks: bool) -> None:
        behind = self.rig.world.sources[source]
        state = "broken" if breaks else "present"
        if behind.files.state != state:
            behind.replaced()
            behind.files = replace(
                behind.files, state=state, permanent=breaks, message="cut short" if breaks else None
            )

    @rule(fails=st.booleans())
    def fetching(self, fails: bool) -> None:
        self.rig.world.sources["org/hub-a"].fetch_fails = fails

    @rule(port=st.sampled_from([1235, 1236]), taken=st.booleans())
    def take_port(self, port: int, taken: bool) -> None:
        ours = any(x.port == port and x.state == "open" for x in self.rig.world.listeners.values())
        if taken and not ours:
            self.rig.world.taken.add(port)
        else:
            self.rig.world.taken.discard(port)

    @rule(pick=st.integers(0, 3), mib=st.sampled_from([0, 500, 2000]))
    def use_more(self, pick: int, mib: int) -> None:
        """Streams take memory beyond the forecast."""
        found = [e for e in self.rig.world.live() if e.state is EngineState.READY]
        if found:
            found[pick % len(found)].extra = mib * 2**20

    @rule(pick=st.integers(0, 3), gib=st.sampled_from([0, 1, 50]))
    def keep_prompts(self, pick: int, gib: int) -> None:
        """A prompt cache fills up, as far as it may."""
        found = [e for e in self.rig.world.live() if e.state is EngineState.READY]
        if found:
            found[pick % len(found)].keeps = gib * 2**30

    @rule(pick=st.integers(0, 3), gib_per_s=st.sampled_from([0.05, 1.0, 8.0]))
    def run_away(self, pick: int, gib_per_s: float) -> None:
        """An engine allocates without end."""
        found = self.rig.world.live()
        if found:
            found[pick % len(found)].leak = gib_per_s * 2**30

    @rule(gib=st.sampled_from([0, 1, 4, 30]))
    def hog(self, gib: int) -> None:
        """Another program takes memory, or gives it back."""
        self.rig.world.hog = gib * 2**30

    @rule(level=st.sampled_from(["normal", "warning", "critical"]), seconds=st.sampled_from([0.0, 2.0, 30.0]))
    def squeeze(self, level: Any, seconds: float) -> None:
        self.rig.world.system = (level, f"the system says {level}")
        self.rig.run(seconds)

    @rule(heat=st.sampled_from([None, "nominal", "heavy", "sleeping"]))
    def warm(self, heat: str | None) -> None:
        self.rig.world.heat = heat

    @rule(name=names, sick=st.booleans(), seconds=st.sampled_from([1.0, 100.0]))
    def lag(self, name: str, sick: bool, seconds: float) -> None:
        """A model comes late, or its engine fails requests."""
        engine, model = self.rig.world.ready(name), self.rig.loop.force.spec.models.get(name)
        if engine is None or model is None:
            return
        failed = 50 if sick else 0
        self.rig.world.service[name] = Service(
            at=0.0, engine=engine.id, priority=model.priority, requests=50, ttft_p95_s=9.0, pace_s=1.0,
            queued=9, fast_total=100, fast_failed=failed, slow_total=100, slow_failed=failed,
            own_failed=failed,
        )  # fmt: skip
        self.rig.run(seconds)

    @rule()
    def keep_up(self) -> None:
        self.rig.world.service.clear()

    # --- people ------------------------------------------------------------------------------------

    @rule(name=st.sampled_from([None, "a", "b", "c"]), seconds=st.sampled_from([0.2, 5.0, 45.0]))
    def ask(self, name: str | None, seconds: float) -> None:
        self.rig.world.request(name, seconds)

    @rule(name=names, kind=st.sampled_from(["load", "unload"]))
    def override(self, name: str, kind: str) -> None:
        if name in self.rig.loop.force.spec.models:
            self.rig.loop.force.override(name, kind)

    @rule()
    def clear_overrides(self) -> None:
        self.rig.loop.force.clear()

    @rule(
        name=names,
        seconds=st.sampled_from([1.0, 60.0, 5000.0]),
        budget=st.sampled_from(["auto", "auto", "3GiB", "64MiB"]),
        keep=st.booleans(),
    )
    def try_out(self, name: str, seconds: float, budget: str, keep: bool) -> None:
        """As an admin call does: never while suspended. Some are confirmed, and so stay."""
        loop = self.rig.loop
        if loop.gate.accepted is None or loop.force.suspended:
            return
        wanted = yaml.safe_load(loop.gate.accepted.text)
        if name in wanted["models"]:
            wanted["active"] = name
        text = yaml.safe_dump({**wanted, "memory": {"budget": budget}, "queue": {"depth": 5}}).encode()
        loop.force.try_out(parse(text), text, seconds, "a try", "somebody", loop.plan)
        self.rig.run(0.2)
        if keep and loop.force.trial.tried is not None:
            loop.force.trial.confirm("somebody")

    @rule()
    def end_try(self) -> None:
        self.rig.loop.force.trial.end("somebody ended it")

    @rule(on=st.booleans())
    def suspend_by_call(self, on: bool) -> None:
        if not on:
            self.rig.loop.force.clear("", ("suspend",))
        elif self.rig.loop.force.trial.tried is None:
            self.rig.loop.force.suspend("somebody")

    @rule()
    def reconcile(self) -> None:
        self.rig.loop.retry_everything()

    # --- and then it stops -----------------------------------------------------------------------------

    @rule()
    @precondition(lambda self: self.rig.world.t < 100_000)
    def calm(self) -> None:
        self._settle()

    @rule()
    def endure(self) -> None:
        """Edits stop and faults do not: what works is left alone all the same."""
        rig, world = self.rig, self.rig.world
        world.crash_in, world.stale = None, []
        rig.run(200.0)
        mark = rig.mark()
        rig.run(CAP_S, look=30.0)
        assert len([a for a in rig.since(mark) if not isinstance(a, Bind)]) < 100, "in circles"
        pinned = [
            a
            for a in rig.since(mark)
            if isinstance(a, Drain) and rig.loop.desired.spec.models[a.model].residency != "on_demand"
        ]
        assert pinned == []
        rig.clean()

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self._settle()

    def _settle(self) -> None:
        rig, world = self.rig, self.rig.world
        world.crash_in, world.stale = None, []
        for engine in world.engines.values():
            engine.extra, engine.leak = 0, 0.0
        world.hog, world.system, world.heat = 0, ("normal", ""), "nominal"
        world.service.clear()
        for source in world.sources.values():
            if source.fate != "fails_for_ever":
                source.fate = "ok"
            source.fetch_fails = False
        world.taken.clear()
        rig.run(CAP_S * 1.2 + 60.0, look=20.0)  # the longest back-off
        rig.run(2 * CAP_S, look=30.0)  # loads, drains and downloads after it
        rig.run(1900.0, look=300.0)  # idle_timeout
        rig.clean()
        self._is_as_asked()
        mark = rig.mark()
        rig.run(1000.0, look=200.0)
        rig.clean()
        assert rig.since(mark) == [], "it does not stay there"

    def _is_as_asked(self) -> None:
        rig, world, loop = self.rig, self.rig.world, self.rig.loop
        assert loop.plan is not None
        desired, decision = loop.desired, loop.plan.decision
        assert world.table == loop.plan.table
        address = (desired.spec.server.host, desired.spec.server.port)
        assert {k: x.state for k, x in world.listeners.items()} == {address: "open"}
        assert all(e.state is EngineState.READY for e in world.engines.values())
        kept = {c.engine.id for c in decision.choices if c.engine is not None}
        if not desired.spec.swap.rollback:  # kept, and not brought back: for as long as it runs
            kept |= decision.held
        assert world.engines.keys() == kept, "engines that nobody wants"

        limit = limit_bytes(desired.spec, world._memory())
        eased = self._is_eased()
        pinned = [c for c in decision.choices if c.why in ("active", "loaded", "override")]
        expected = {
            n
            for n, m in desired.spec.models.items()
            if (n == desired.spec.active or m.residency == "loaded" or desired.override(n) == "load")
            and desired.override(n) != "unload"
        }
        stand_in = {decision.stand_in} & expected
        assert {c.name for c in pinned} | stand_in == expected
        reasons = []
        for choice in pinned:
            form = desired.spec.models[choice.name]
            if choice.blocked is None:
                assert choice.ready
                assert choice.engine is not None
                assert choice.engine.digest == form.digest
                assert rig.answer(choice.name) == f"{choice.name}:{form.source}"
                continue
            reasons.append(choice.blocked.reason)
            self._is_right(choice.name, choice.blocked.reason, limit)
            if choice.fallback:
                assert choice.ready
        synced = rig.condition("Synced")
        rejected = loop.gate.config_error is not None or loop.gate.source_error is not None
        if rejected:
            assert synced.reason == "SpecRejected"
        elif loop.force.file.suspend:
            assert synced.status == "False"
        elif loop.force.trial.tried is not None and not reasons:
            assert synced.reason == "Trying"
        elif reasons:
            assert synced.status == "False"
            assert synced.reason in reasons
            assert synced.message
        elif loop.force.held_back:
            assert synced.reason == "Suspended"
        else:
            assert synced.status == "True", synced
            usual = "Ready" if eased else "Degraded"
            usual = "Suspended" if loop.force.suspended else usual
            assert loop.summary == usual or any(o.kind == "unload" for o in loop.force.overrides)
            allowed = sum(e.limits.memory_bytes + PROCESS - COPIES for e in world.live())
            # One whose files have gone keeps its allowance: what it needs cannot be computed any more.
            known = all(world.sources[e.form.source].files.state == "present" for e in world.live())
            assert allowed <= limit or not known, "engines may use more than there is"
        self._somebody_answers()

    def _is_eased(self) -> bool:
        """No step is in force, unless our own use is what keeps it so."""
        loop, memory = self.rig.loop, self.rig.world._memory()
        strain, spec = loop.strain, loop.force.spec.memory
        whole = budget(spec.budget, memory)
        assert not strain.pressure.hot
        assert not any(g.stage for g in strain.guards.values())
        if memory.used_bytes < whole * spec.recover.fraction:
            assert strain.steps == ()
        if strain.steps == ():
            assert not strain.pressure.shed
            assert strain.pressure.unloaded is None
        return strain.steps == () and not strain.returning

    def _is_right(self, name: str, reason: str, limit: int) -> None:
        """A model may stay out only for a reason that is true and does not end by itself."""
        desired, world = self.rig.loop.desired, self.rig.world
        form = desired.spec.models[name]
        source = world.sources[form.source]
        match reason:
            case "ModelFilesBroken":
                assert source.files.state == "broken"
            case (
                "LoadFailed" | "ProbeFailed" | "EngineCrashed" | "EngineExited" | "EngineHung" | "OutOfMemory"
            ):
                failures = self.rig.loop.ledger.get(form.own_digest)
                assert failures.failures
                if source.fate != "fails_for_ever":
                    assert any(e.state is EngineState.READY for e in world.live()), "nothing is interrupted"
            case "OomUnloaded":
                if not self.rig.loop.strain.out(name):
                    recover = budget(desired.spec.memory.budget, world._memory())
                    recover = int(recover * desired.spec.memory.recover.fraction)
                    held = sum(e.floor_bytes for e in world.live() if e.model != name)
                    own = size_of(form, source.files, desired.spec).at_floor
                    assert held + own > recover - 1, f"{name} would fit: {held} + {own} <= {recover}"
            case "Quarantined":
                assert self.rig.loop.ledger.get(form.own_digest).quarantined
            case "InsufficientMemory":
                floors = [self._floor(e) for e in world.live() if e.model != name]
                own = size_of(form, source.files, desired.spec).at_floor
                if source.files.state != "present":  # it runs, and its files have gone
                    own = max((e.memory for e in world.live(name)), default=0)
                beside = desired.spec.swap.strategy == "beside"
                mine = [self._floor(e) for e in world.live(name)]
                held = sum(floors) + (sum(mine) if beside else 0)
                assert held + own > limit, f"{name} would fit: {held} + {own} <= {limit}"
            case _:
                raise AssertionError(f"{name} stays out for {reason}")

    def _floor(self, engine: Engine) -> int:
        """The least it needs: as it was let in, or with the context that an edit has given it since."""
        form = self.rig.loop.desired.spec.models.get(engine.model)
        if form is None or form.digest != engine.digest:
            return engine.floor_bytes
        files = self.rig.world.sources[form.source].files
        return max(engine.floor_bytes, size_of(form, files, self.rig.loop.desired.spec).at_floor)

    def _somebody_answers(self) -> None:
        """With rollback, a model that has answered is not lost to one that cannot run."""
        loop, world = self.rig.loop, self.rig.world
        desired = loop.desired
        spec, known = desired.spec, loop.known
        if spec.active is None or desired.override(spec.active) is not None or not spec.swap.rollback:
            return
        if known.active is None or desired.override(known.active) is not None:
            return
        form = known.forms[known.active].model
        source = world.sources[form.source]
        # Fields that are taken up in place do not make another engine: it is in quarantine with the other.
        own = spec.models.get(known.active)
        alike = [form, own] if own is not None and own.digest == form.digest else [form]
        quarantined = any(loop.ledger.get(model.own_digest).quarantined for model in alike)
        healthy = source.files.state == "present" and source.fate == "ok" and not quarantined
        fits = size_of(form, source.files, spec).at_floor <= limit_bytes(spec, world._memory())
        alone = not any(e.model not in (spec.active, known.active) for e in world.live())
        out = {spec.active, known.active} & {*loop.strain.returning, *loop.strain.pressure.shed}
        if healthy and fits and alone and not out:
            assert self.rig.answers is not None, loop.conditions["Ready"]
            assert self.rig.condition("Ready").status == "True"


TestConvergence = Convergence.TestCase
TestConvergence.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=int(os.environ.get("CONVERGENCE_STEPS", "25")),
    deadline=None,
    derandomize="CONVERGENCE_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
