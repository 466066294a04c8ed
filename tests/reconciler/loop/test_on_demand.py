"""Decisions 1 and 4 for models that load when a request asks for them."""

from __future__ import annotations

from dataclasses import replace

from reconciler.actions import Drain
from tests.reconciler.loop.rig import Rig, large, medium, small, spec

MINUTE = 60.0


def lazy(model: dict, **more: object) -> dict:  # type: ignore[type-arg]
    return {**model, "residency": "on_demand", **more}


def test_d1_nobody_asks_and_nothing_loads() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b"))))
    rig.run(60)
    assert rig.running == ["a:./small-a"]
    assert rig.world.table.routes["b"].status == "wake"
    rig.clean()


def test_d1_the_first_request_wakes_it_and_many_cause_one_load() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b"))))
    rig.run(20)
    asked = [rig.world.request("b", 1.0) for _ in range(5)]
    rig.run(1)
    asked += [rig.world.request("b", 1.0) for _ in range(3)]
    rig.run(30)
    assert {r.outcome for r in asked} == {"done"}
    assert len(rig.world.spawned("b")) == 1
    rig.clean()


def test_d1_a_load_on_demand_leaves_the_spec_synced() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b"))))
    rig.run(20)
    rig.world.request("b", 1.0)
    rig.run(1)
    assert rig.condition("Synced").status == "True"
    assert rig.condition("Reconciling").status == "True"
    assert rig.loop.summary == "Reconciling"
    rig.run(20)
    assert rig.loop.summary == "Ready"


def test_d1_paged_out_when_idle_and_not_while_in_use() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b"), idle_timeout="2m")))
    rig.run(20)
    long = rig.world.request("b", 5 * MINUTE)
    rig.run(4 * MINUTE)
    assert rig.world.ready("b") is not None
    rig.run(2 * MINUTE)
    assert long.outcome == "done"
    rig.run(2 * MINUTE)
    assert rig.world.live("b") == []
    drained = [a for a in rig.world.actions if isinstance(a, Drain)]
    assert drained[-1].reason == "idle for 120 s"
    rig.clean()


def test_d1_never_paged_out_before_min_residency() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b"), idle_timeout="100s", min_residency="90s")))
    rig.run(20)
    rig.world.request("b", 1.0)
    rig.run(80)
    assert rig.world.ready("b") is not None
    rig.run(60)
    assert rig.world.live("b") == []
    rig.clean()


def test_d4_two_that_do_not_fit_together_take_turns_at_min_residency_and_not_faster() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b")), c=lazy(small("c"))), room=4.0)
    rig.run(20)
    began = rig.world.t
    while rig.world.t - began < 10 * MINUTE:
        rig.world.request("b", 0.5)
        rig.world.request("c", 0.5)
        rig.run(5, look=5)
    loads = len(rig.world.spawned("b")) + len(rig.world.spawned("c"))
    assert 4 <= loads <= 11
    rig.clean()


def test_d4_one_in_use_is_not_pushed_out_by_one_that_is_asked_for() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b")), c=lazy(small("c"))), room=4.0)
    rig.run(20)
    stream = rig.world.request("b", 2.4 * MINUTE)
    rig.run(2 * MINUTE)
    late = rig.world.request("c", 1.0)
    rig.run(20)
    assert (stream.outcome, late.outcome) == ("running", "waiting")
    assert not any(isinstance(a, Drain) for a in rig.world.actions)
    rig.run(20)
    assert (stream.outcome, late.outcome) == ("done", "done")
    rig.clean()


def test_d4_one_that_is_asked_for_does_not_starve_behind_one_that_is_always_busy() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b")), c=lazy(small("c"))), room=4.0)
    rig.run(20)
    mine = [rig.world.request("b", 1.0)]
    while rig.world.t < 1000 + 2 * MINUTE:
        mine.append(rig.world.request("b", 1.0))
        rig.run(0.5)
    asked, since = rig.world.request("c", 1.0), rig.world.t
    while asked.outcome == "waiting" and rig.world.t < since + MINUTE:
        mine.append(rig.world.request("b", 1.0))
        rig.run(0.5)
    assert asked.outcome in ("running", "done")
    assert rig.world.t - since >= 30
    drained = [a for a in rig.world.actions if isinstance(a, Drain) and a.model == "b"]
    assert "a request has waited through half of queue.timeout" in drained[0].reason
    rig.run(3 * MINUTE)
    assert {r.outcome for r in mine} <= {"done", "timeout"}  # none was cut
    assert mine[-1].outcome in ("done", "timeout")
    rig.clean()


def test_d4_a_stream_is_never_cut_for_a_request_of_another_on_demand_model() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b")), c=lazy(small("c"))), room=4.0)
    rig.run(20)
    stream = rig.world.request("b", 5 * MINUTE)
    rig.run(2 * MINUTE)
    late = rig.world.request("c", 1.0)
    rig.run(2 * MINUTE)
    assert (stream.outcome, late.outcome) == ("running", "timeout")
    rig.run(2 * MINUTE)
    assert stream.outcome == "done"
    rig.clean()


def test_d4_one_on_its_way_is_not_given_up_for_one_that_has_waited_longer() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b")), c=lazy(medium("c"))), room=5.0)
    rig.run(20)
    rig.world.request("c", 1.0)
    rig.run(1)
    rig.edit(lambda s: s.update(queue={"timeout": "4s"}))
    rig.world.request("b", 1.0)
    rig.run(4)  # b is overdue from two seconds on; c takes four to load
    assert not any(a.kind in ("unload", "drain") for a in rig.world.actions)
    rig.run(20)
    assert rig.world.ready("c") is not None
    rig.clean()


def test_d4_an_idle_one_makes_room_for_one_that_is_asked_for() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b")), c=lazy(small("c"))), room=4.0)
    rig.run(20)
    rig.world.request("b", 1.0)
    rig.run(2 * MINUTE)
    asked = rig.world.request("c", 1.0)
    rig.run(20)
    assert asked.outcome == "done"
    assert rig.world.live("b") == []
    rig.clean()


def test_d4_one_that_can_never_fit_is_refused_and_refused_again() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(large("b"))), room=4.0)
    rig.run(20)
    for _ in range(3):
        asked = rig.world.request("b", 1.0)
        rig.run(6)
        assert asked.outcome == "refused:insufficient_memory"
    assert rig.condition("Synced").status == "True"
    rig.clean()


def test_d4_a_new_active_model_takes_the_place_of_one_on_demand_after_min_residency() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b")), c=medium("c")), room=4.0)
    rig.run(20)
    stream = rig.world.request("b", 10 * MINUTE)
    rig.run(10)
    rig.edit(lambda s: s.update(active="c", swap={"drain_timeout": "30s"}))
    rig.run(20)
    assert rig.answers == "a:./small-a"
    assert rig.condition("Synced").reason == "InsufficientMemory"
    assert rig.world.ready("b") is not None
    rig.run(3 * MINUTE)
    assert rig.answers == "c:./medium-c"
    assert stream.outcome == "cut"
    rig.clean()


def test_d4_no_room_is_made_for_a_model_that_is_still_on_its_way() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b")), c={"source": "org/hub-a", "context": 4096}), room=4.0)
    rig.run(20)
    rig.world.request("b", 10 * MINUTE)
    rig.run(2 * MINUTE)
    rig.world.sources["org/hub-a"].fetch_fails = True
    rig.edit(lambda s: s.update(active="c"))
    rig.run(2 * MINUTE)
    assert rig.running == ["a:./small-a", "b:./small-b"]
    rig.world.sources["org/hub-a"].fetch_fails = False
    rig.run(10 * MINUTE)
    assert rig.answers == "c:org/hub-a"
    rig.clean()


def test_d1_no_room_is_made_for_a_model_that_then_waits_for_something_else() -> None:
    """A form that would interrupt what works is not tried, so nobody makes room for it either."""
    rig = Rig(spec("a", a=small(), b=lazy(small("b"))), room=4.0)
    rig.run(20)
    source = rig.world.sources["./medium-c"]
    source.fate = "fails"
    rig.edit(lambda s: s["models"].update(a=medium("c")))
    rig.run(2 * MINUTE)
    asked = rig.world.request("b", 1.0)
    rig.run(30)
    assert asked.outcome == "done"
    mark = rig.mark()
    rig.run(10 * MINUTE)
    assert rig.since(mark) == []
    assert rig.running == ["a:./small-a", "b:./small-b"]
    rig.clean()


def test_d1_a_crash_while_idle_waits_for_the_next_request() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b"))))
    rig.run(20)
    rig.world.request("b", 1.0)
    rig.run(20)
    rig.world.crash(rig.engine("b").id)
    rig.run(60)
    assert rig.world.live("b") == []
    again = rig.world.request("b", 1.0)
    rig.run(20)
    assert again.outcome == "done"
    rig.clean()


def test_p8_a_model_on_demand_is_fetched_to_the_end_although_its_client_gave_up() -> None:
    rig = Rig(spec("a", a=small(), b=lazy({"source": "org/hub-a", "context": 4096}), c=small("c")))
    rig.write({**rig.spec, "queue": {"timeout": "5s"}, "swap": {"strategy": "beside"}})
    rig.run(10)
    asked = rig.world.request("b", 1.0)
    rig.run(60)
    assert asked.outcome == "timeout"
    assert rig.world.sources["org/hub-a"].files.state == "present"
    again = rig.world.request("b", 1.0)
    rig.run(4.8)
    assert again.outcome == "done"
    rig.clean()


def test_d1_an_edit_of_one_that_runs_reloads_it() -> None:
    rig = Rig(spec("a", a=small(), b=lazy(small("b"))))
    rig.run(20)
    rig.world.request("b", 1.0)
    rig.run(20)
    rig.edit(lambda s: s["models"]["b"].update(source="./small-c"))
    rig.run(20)
    assert rig.running == ["a:./small-a", "b:./small-c"]
    assert replace(rig.world.table.routes["b"], engine=None).status == "ready"
    rig.clean()
