"""Another process's state is taken over while engines run here; and one that gives way follows no edit."""

from __future__ import annotations

from tests.reconciler.loop.rig import EPOCH, Rig, small, spec


def test_who_takes_over_goes_on_from_what_the_other_left_and_touches_no_engine() -> None:
    other = Rig(spec("a", a=small(), b=small("b")))
    other.run(20)
    rig = Rig(spec("a", a=small(), b=small("b")))  # stands by: it has read the same file, once
    rig.run(20)
    other.edit(lambda s: s["server"].update(port=1300))
    other.run(20)
    other.loop.force.override("b", "load")
    rig.spec, rig.text = other.spec, other.text
    engine = rig.engine("a").id
    rig.store = rig.loop._store = other.store
    rig.loop.remember(other.recall(EPOCH - 1000.0))
    rig.run(20)
    assert (rig.loop.gate.generation, rig.loop.observed_generation) == (2, 2)
    assert rig.running == ["a:./small-a", "b:./small-b"]
    assert rig.engine("a").id == engine
    assert rig.condition("Overridden").message == "load b"
    assert rig.loop.summary == "Ready"
    assert [e.message for e in rig.store.list if e.type.value == "SpecAccepted"] == [
        "generation 1",
        "generation 2",
    ]
    rig.clean()


def test_one_that_gives_way_follows_no_edit_and_goes_on_serving() -> None:
    rig = Rig(spec("a", a=small(), b=small("b")))
    rig.run(20)
    rig.loop.gate.frozen = True
    rig.edit(lambda s: s.update(active="b"))
    rig.run(20)
    assert (rig.answers, rig.loop.gate.generation) == ("a:./small-a", 1)
    rig.world.crash(rig.engine("a").id)
    rig.run(30)
    assert rig.answers == "a:./small-a"
    rig.loop.gate.frozen = False
    rig.run(30)
    assert rig.answers == "b:./small-b"
    rig.clean()
