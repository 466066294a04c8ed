"""Admin calls as a visible layer over the spec: load and unload, and what ends them."""

from __future__ import annotations

import pytest

from reconciler.events import EventType
from tests.reconciler.loop.rig import Rig, small, spec


def two() -> Rig:
    rig = Rig(spec("a", a=small(), b=small("b")))
    rig.run(20)
    return rig


def test_d1_load_keeps_a_model_beside_the_active_one_and_shows() -> None:
    rig = two()
    rig.loop.force.override("b", "load")
    rig.run(20)
    assert rig.running == ["a:./small-a", "b:./small-b"]
    assert rig.condition("Overridden").status == "True"
    assert rig.condition("Overridden").message == "load b"
    assert rig.loop.force.clear() == 1
    rig.run(20)
    assert rig.running == ["a:./small-a"]
    assert rig.condition("Overridden").status == "False"
    rig.clean()


def test_d1_unload_of_the_active_model_refuses_requests_and_is_not_ready() -> None:
    rig = two()
    stream = rig.world.request(None, 5.0)
    rig.loop.force.override("a", "unload")
    rig.run(1)
    assert rig.world.request().outcome == "refused:no-model-loaded"
    assert rig.condition("Ready").status == "False"
    rig.run(20)
    assert stream.outcome == "done"
    assert rig.running == []
    rig.loop.force.clear("a")
    rig.run(20)
    assert rig.answers == "a:./small-a"
    rig.clean()


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        (lambda s: s.update(active="b"), True),
        (lambda s: s["models"]["b"].update(concurrency=2), True),
        (lambda s: s["models"].pop("b"), True),
        (lambda s: s["models"]["a"].update(concurrency=2), False),
        (lambda s: s.update(queue={"depth": 3}), False),
        (lambda s: s["server"].update(port=1300), False),
    ],
)
def test_d1_only_an_edit_of_active_or_of_that_model_ends_an_override(change: object, ends: bool) -> None:
    rig = two()
    rig.loop.force.override("b", "load")
    rig.run(20)
    rig.edit(change)  # type: ignore[arg-type]
    rig.run(20)
    assert (rig.loop.force.overrides == ()) is ends
    assert bool(rig.events(EventType.OVERRIDE_CLEARED)) is ends
    rig.clean()


def test_d1_overrides_survive_a_restart() -> None:
    rig = two()
    rig.loop.force.override("b", "load")
    rig.run(20)
    rig.restart()
    rig.run(20)
    assert rig.running == ["a:./small-a", "b:./small-b"]
    assert rig.condition("Overridden").status == "True"
    rig.clean()


def test_d1_an_edit_made_while_lmx_was_down_ends_an_override_too() -> None:
    rig = two()
    rig.loop.force.override("b", "load")
    rig.run(20)
    rig.edit(lambda s: s["models"]["b"].update(priority=7))
    rig.restart()
    rig.run(20)
    assert rig.running == ["a:./small-a"]
    assert rig.loop.force.overrides == ()


def test_d1_an_override_that_the_disk_refused_for_a_moment_ends_with_its_edit_all_the_same() -> None:
    rig = two()
    rig.loop.force.override("b", "load")
    rig.run(20)
    rig.store.down = True
    rig.edit(lambda s: s["models"]["b"].update(priority=7))
    rig.run(3)
    rig.store.down = False
    rig.run(20)
    assert rig.running == ["a:./small-a"]
    assert rig.store.generations[2].spec.models["b"].priority == 7
    assert rig.world.violations == []
