"""Plan question 1: the public address. The new one opens before the old one goes."""

from __future__ import annotations

from reconciler.actions import Bind, Unbind
from tests.reconciler.loop.rig import Rig, small, spec


def ports(rig: Rig) -> dict[int, str]:
    return {port: x.state for (_, port), x in rig.world.listeners.items()}


def test_p2_it_listens_before_any_model_is_looked_at() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(0)
    assert rig.world.kinds()[0] == "bind"


def test_p2_the_new_address_opens_before_the_old_one_closes() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    mark = rig.mark()
    rig.edit(lambda s: s["server"].update(port=1300))
    rig.run(20)
    first, second = rig.since(mark)
    assert isinstance(first, Bind)
    assert isinstance(second, Unbind)
    assert (first.port, second.port) == (1300, 1234)
    assert ports(rig) == {1300: "open"}
    rig.clean()


def test_p2_a_port_in_use_leaves_the_old_one_open_and_is_tried_again() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.world.taken.add(1300)
    rig.edit(lambda s: s["server"].update(port=1300))
    rig.run(9)
    assert ports(rig) == {1234: "open", 1300: "failed"}
    assert rig.condition("Synced").reason == "ListenFailed"
    tries = [a for a in rig.world.actions if isinstance(a, Bind) and a.port == 1300]
    assert 4 <= len(tries) <= 6
    rig.world.taken.clear()
    rig.run(10)
    assert ports(rig) == {1300: "open"}
    assert rig.condition("Synced").status == "True"
    rig.clean()


def test_p2_back_to_the_old_port_forgets_the_one_that_failed() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.world.taken.add(1300)
    rig.edit(lambda s: s["server"].update(port=1300))
    rig.run(5)
    rig.edit(lambda s: s["server"].update(port=1234))
    rig.run(5)
    assert ports(rig) == {1234: "open"}
    assert rig.condition("Synced").status == "True"
    rig.clean()


def test_p2_back_to_a_port_that_is_still_closing() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.edit(lambda s: s["server"].update(port=1300))
    rig.run(0.1)
    rig.edit(lambda s: s["server"].update(port=1234))
    rig.run(20)
    assert ports(rig) == {1234: "open"}
    rig.clean()
