"""Service levels, and `lmx drain`: what they make of the router's orders and of engines."""

from __future__ import annotations

from reconciler.actions import Drain, Spawn
from reconciler.events import EventType
from reconciler.readings import Service
from tests.reconciler.loop.rig import Rig, small, spec

MINUTE = 60.0


def two(**more: object) -> Rig:
    rig = Rig({**spec("a", a=small(), b=small("b", residency="loaded", priority=10)), **more}, room=10.0)
    rig.run(20)
    assert len(rig.running) == 2
    return rig


def late(rig: Rig, name: str = "a", **more: object) -> None:
    """Its requests come late: four seconds to the first token, where two are allowed."""
    found = {
        "at": 0.0, "engine": rig.engine(name).id, "requests": 50, "ttft_p95_s": 4.0, "wait_p95_s": 3.5,
        "queued": 20, "rows": 8, "concurrency": 8, "pace_s": 0.5, "priority": 100,
    }  # fmt: skip
    rig.world.service[name] = Service(**{**found, **more})  # type: ignore[arg-type]
    rig.world.service.setdefault(
        "b", Service(at=0.0, engine=rig.engine("b").id, priority=10)
    )  # fmt: skip
    rig.world.poke()


def sick(rig: Rig, name: str = "a") -> None:
    """Its own failures use the error budget up."""
    late(rig, name, fast_total=100, fast_failed=50, slow_total=100, slow_failed=50, own_failed=50)


def test_p5_back_pressure_cuts_the_queue_of_that_model() -> None:
    rig = two()
    late(rig)
    rig.run(2)
    assert rig.world.table.routes["a"].depth is not None
    assert rig.world.table.routes["b"].depth is None
    assert rig.condition("Degraded").reason == "ServiceLevel"
    assert "p95 time to first token" in rig.condition("Degraded").message
    assert len(rig.events(EventType.SLO_STAGE)) == 1
    assert rig.loop.summary == "Degraded"
    rig.world.service.clear()
    rig.run(3 * MINUTE)
    assert rig.world.table.routes["a"].depth is None
    assert rig.loop.summary == "Ready"
    rig.clean()


def test_p5_a_model_of_lower_priority_takes_no_new_request_and_keeps_its_engine() -> None:
    rig = two()
    engine = rig.engine("b")
    running = rig.world.request("b", 2 * MINUTE)
    late(rig)
    rig.run(MINUTE)
    refused = rig.world.request("b")
    assert refused.outcome == "refused:overloaded"
    assert rig.world.table.routes["b"].retry_after
    assert rig.world.request("a", 1.0).outcome == "running"
    rig.world.service.clear()
    rig.run(4 * MINUTE)
    assert running.outcome == "done"
    assert rig.engine("b") is engine
    assert rig.world.request("b", 1.0).outcome == "running"
    rig.clean()


def test_d5_an_engine_to_be_replaced_answers_until_its_successor_is_ready() -> None:
    rig = two()
    old = rig.engine("a")
    sick(rig)
    mark = rig.mark()
    while not any(isinstance(a, Spawn) for a in rig.since(mark)):
        rig.run(5)
        assert rig.world.t < 1000 + 5 * MINUTE
    assert rig.world.table.routes["a"].engine == old.id
    stream = rig.world.request("a", 20.0)
    assert stream.engine == old.id
    rig.run(40)
    assert stream.outcome == "done"
    assert rig.engine("a") is not old
    assert rig.answers == "a:./small-a"
    drained = [a for a in rig.since(mark) if isinstance(a, Drain)]
    assert [a.engine for a in drained] == [old.id]
    assert drained[0].reason.startswith("replaced by a fresh engine: ")
    rig.clean()


def test_d5_an_engine_to_be_replaced_is_drained_first_where_both_have_no_room() -> None:
    rig = Rig(spec("a", a=small(), b=small("b")), room=2.5)
    rig.run(20)
    old = rig.engine("a")
    rig.world.service["a"] = Service(
        at=0.0, engine=old.id, fast_total=100, fast_failed=50, slow_total=100, slow_failed=50, own_failed=50
    )
    rig.run(3 * MINUTE)
    assert rig.engine("a").id != old.id
    rig.clean()


def test_d5_one_engine_is_replaced_at_a_time() -> None:
    rig = two()
    old = {rig.engine("a").id, rig.engine("b").id}
    sick(rig, "a")
    sick(rig, "b")
    most = 0
    for _ in range(200):
        rig.run(1)
        most = max(most, len(rig.world.live()))
    assert most == 3
    assert not {rig.engine("a").id, rig.engine("b").id} & old
    rig.clean()


def test_d2_an_engine_whose_successor_cannot_load_goes_on_answering() -> None:
    rig = two()
    old = rig.engine("a")
    rig.world.sources["./small-a"].fate = "fails"
    sick(rig)
    rig.run(5 * MINUTE)
    assert rig.world.spawned("a")[1:]
    assert rig.answers == "a:./small-a"
    assert rig.engine("a") is old
    assert not any(isinstance(a, Drain) for a in rig.world.actions)
    rig.clean()


# --- lmx drain ----------------------------------------------------------------------------------------


def test_p5_drained_the_machine_says_so_and_keeps_its_models() -> None:
    rig = two()
    mark = rig.mark()
    until = rig.loop._wall() + 30
    rig.loop.force.drain(until)
    rig.run(5)
    assert [a.kind for a in rig.since(mark)] == ["route"]
    table = rig.world.table
    assert table.drained
    assert table.sessions_until == until
    assert table.routes["a"].status == "ready"
    assert rig.condition("Ready").reason == "Drained"
    assert rig.condition("Overridden").message == "drain"
    assert rig.loop.summary == "NotReady"
    assert rig.loop.force.clear() == 1
    rig.run(5)
    assert rig.world.table.drained == ""
    assert rig.loop.summary == "Ready"
    assert len(rig.events(EventType.DRAINED)) == 2
    rig.clean()


def test_p5_a_drain_survives_a_restart_and_ends_when_active_is_edited() -> None:
    rig = two()
    rig.loop.force.drain(rig.loop._wall() + 30)
    rig.restart()
    rig.run(20)
    assert rig.world.table.drained
    rig.edit(lambda s: s["models"]["a"].update(concurrency=3))
    rig.run(5)
    assert rig.world.table.drained
    rig.edit(lambda s: s.update(active="b"))
    rig.run(5)
    assert rig.world.table.drained == ""
    assert rig.condition("Overridden").status == "False"
    rig.clean()


def test_p5_a_second_drain_takes_the_place_of_the_first() -> None:
    rig = two()
    rig.loop.force.drain(5.0)
    rig.loop.force.drain(7.0)
    rig.run(1)
    assert rig.world.table.sessions_until == 7.0
    assert len(rig.loop.force.overrides) == 1
