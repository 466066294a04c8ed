"""`suspend: true`: edits are read, nothing is changed, and what runs is kept running."""

from __future__ import annotations

from tests.reconciler.loop.rig import Rig, small, spec


def suspended() -> Rig:
    rig = Rig(spec("a", a=small(), b=small("b")))
    rig.run(20)
    rig.edit(lambda s: s.update(suspend=True))
    rig.run(5)
    return rig


def test_edits_are_read_and_nothing_changes_until_it_ends() -> None:
    rig = suspended()
    mark = rig.mark()
    rig.edit(lambda s: (s.update(active="b"), s["server"].update(port=1300)))
    rig.run(60)
    assert rig.since(mark) == []
    assert rig.loop.gate.generation == 3
    assert rig.loop.summary == "Suspended"
    assert rig.condition("Synced").reason == "Suspended"
    rig.edit(lambda s: s.update(suspend=False))
    rig.run(30)
    assert rig.answers == "b:./small-b"
    assert rig.loop.summary == "Ready"
    rig.clean()


def test_a_crashed_engine_returns() -> None:
    rig = suspended()
    rig.edit(lambda s: s["models"].update(a=small("c")))
    rig.world.crash(rig.engine("a").id)
    rig.run(20)
    assert rig.answers == "a:./small-a"
    rig.clean()


def test_what_was_in_force_stays_in_force_although_it_never_became_good() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.world.sources["./small-d"].fate = "fails_for_ever"
    rig.edit(lambda s: s["models"].update(b=small("b", residency="loaded"), x=small("d", residency="loaded")))
    rig.run(20)
    assert rig.running == ["a:./small-a", "b:./small-b"]
    mark = rig.mark()
    rig.edit(lambda s: s.update(suspend=True))
    rig.run(60)
    assert rig.since(mark) == []
    rig.clean()


def test_a_restart_brings_back_what_was_in_force() -> None:
    rig = suspended()
    rig.edit(lambda s: s.update(active="b"))
    rig.run(5)
    rig.restart()
    rig.run(20)
    assert rig.answers == "a:./small-a"
    assert rig.loop.summary == "Suspended"
    rig.clean()


def test_suspended_from_the_first_start_it_listens_and_loads_nothing() -> None:
    rig = Rig({**spec("a", a=small()), "suspend": True})
    rig.run(20)
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(20)
    assert rig.running == []
    assert [(port, x.state) for (_, port), x in rig.world.listeners.items()] == [(1234, "open")]
    rig.clean()
