"""Decision 5: a load goes beside what runs, or takes its place. And what clients notice of it: nothing."""

from __future__ import annotations

from reconciler.actions import Drain, Spawn, Stop
from reconciler.observed import EngineState
from tests.reconciler.loop.rig import Rig, large, medium, small, spec


def swapped(rig: Rig) -> Rig:
    rig.run(20)
    assert rig.answers == "a:./small-a"
    return rig


def test_d5_beside_when_both_fit() -> None:
    rig = swapped(Rig(spec("a", a=small()), room=4.2))
    mark = rig.mark()
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(20)
    # What has grown into the spare memory shrinks before the newcomer loads, which grows when it is alone.
    assert [a.kind for a in rig.since(mark)] == [
        "route", "configure", "load", "route", "drain", "unload", "forget", "configure",
    ]  # fmt: skip
    assert rig.running == ["a:./small-b"]
    rig.clean()


def test_d5_beside_the_old_one_answers_until_the_new_one_is_ready() -> None:
    rig = swapped(Rig(spec("a", a=small(), b=small("b")), room=4.0))
    rig.edit(lambda s: s.update(active="b"))
    while rig.world.ready("b") is None:
        rig.run(0.1)
        assert rig.answers is not None
    rig.run(0.1)
    assert rig.answers == "b:./small-b"
    rig.clean()


def test_d5_drain_first_when_only_one_fits() -> None:
    rig = swapped(Rig(spec("a", a=small()), room=3.0))
    mark = rig.mark()
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(20)
    assert [a.kind for a in rig.since(mark)] == ["route", "drain", "unload", "forget", "load", "route"]
    assert rig.since(mark)[1].mark == "-/+"
    assert rig.running == ["a:./small-b"]
    rig.clean()


def test_d5_drain_first_by_strategy_although_both_fit() -> None:
    rig = swapped(Rig(spec("a", a=small(), b=small("b")), room=9.0))
    rig.edit(lambda s: s.update(active="b", swap={"strategy": "drain_first"}))
    rig.run(20)
    kinds = rig.world.kinds()
    assert kinds.index("unload") < len(kinds) - 1 - kinds[::-1].index("load")
    assert rig.running == ["b:./small-b"]
    rig.clean()


def test_d5_beside_by_strategy_refuses_what_does_not_fit_beside() -> None:
    rig = swapped(Rig(spec("a", a=small(), b=small("b")), room=3.0))
    rig.edit(lambda s: s.update(active="b", swap={"strategy": "beside"}))
    rig.run(60)
    assert rig.answers == "a:./small-a"
    assert rig.condition("Synced").reason == "InsufficientMemory"
    assert "swap.strategy is beside" in rig.condition("Synced").message
    rig.clean()


def test_d5_requests_wait_during_a_drain_first_swap_and_none_is_lost() -> None:
    rig = swapped(Rig(spec("a", a=small()), room=3.0))
    running = [rig.world.request(None, 8.0) for _ in range(3)]
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(1.0)
    waiting = [rig.world.request(None, 1.0) for _ in range(3)]
    rig.run(30)
    assert {r.outcome for r in (*running, *waiting)} == {"done"}
    assert {r.engine for r in waiting} == {rig.engine("a").id}
    rig.clean()


def test_d5_a_drain_ends_at_drain_timeout() -> None:
    rig = swapped(Rig(spec("a", a=small(), b=small("b")), room=9.0))
    endless = rig.world.request(None, 10_000)
    rig.edit(lambda s: s.update(active="b", swap={"drain_timeout": "20s"}))
    rig.run(15)
    assert endless.outcome == "running"
    rig.run(15)
    assert endless.outcome == "cut"
    stops = [a for a in rig.world.actions if isinstance(a, Stop)]
    assert stops[-1].reason == "drain timeout: 1 requests left after 20 s"
    assert stops[-1].field == "swap.drain_timeout"
    rig.clean()


def test_d5_one_load_at_a_time_and_active_first() -> None:
    rig = Rig(
        spec("c", a=small(residency="loaded", priority=900), b=small("b", residency="loaded"), c=small("c"))
    )
    rig.run(30)
    assert [s.model for s in rig.world.spawned()] == ["c", "a", "b"]
    rig.clean()


def test_d5_a_loaded_model_is_a_change_of_pointer() -> None:
    rig = Rig(spec("a", a=small(residency="loaded"), b=small("b", residency="loaded")))
    rig.run(20)
    mark = rig.mark()
    rig.edit(lambda s: s.update(active="b"))
    rig.run(20)
    assert [a.kind for a in rig.since(mark)] == ["route"]
    assert rig.answers == "b:./small-b"
    rig.clean()


def test_d5_what_runs_and_uses_more_than_foreseen_is_not_drained_in_vain() -> None:
    """The new model would not fit even without the old one, so the old one stays."""
    rig = Rig(spec("a", a=small(), b=small("b", residency="loaded")), room=4.5)
    rig.run(20)
    rig.engine("b").extra = 2**30
    mark = rig.mark()
    rig.edit(lambda s: s["models"].update(a=medium()))
    rig.run(30)
    assert not any(isinstance(a, Drain | Spawn) for a in rig.since(mark))
    assert rig.answers == "a:./small-a"
    assert rig.condition("Synced").reason == "InsufficientMemory"
    rig.engine("b").extra = 0
    rig.run(30)
    assert rig.answers == "a:./medium-a"
    rig.clean()


def test_d3_the_model_before_stays_and_keeps_its_room_where_the_spec_keeps_it_loaded() -> None:
    """It answers for the new active model, and is not drained to make room for it."""
    rig = swapped(Rig(spec("a", a=small(), b=medium("b")), room=4.0))
    rig.edit(lambda s: (s.update(active="b"), s["models"]["a"].update(residency="loaded")))
    rig.run(60)
    assert rig.answers == "a:./small-a"
    assert rig.condition("Synced").reason == "InsufficientMemory"
    assert rig.running == ["a:./small-a"]
    rig.clean()


def test_d5_a_third_form_waits_for_nothing_but_memory() -> None:
    """Edits in a row: each load that is no longer asked for is cancelled, and the last one is served."""
    rig = swapped(Rig(spec("a", a=small()), room=3.6))
    for letter in "bcd":
        rig.edit(lambda s, letter=letter: s["models"].update(a=small(letter)))
        rig.run(0.7)
    rig.run(30)
    assert rig.running == ["a:./small-d"]
    assert rig.answers == "a:./small-d"
    rig.clean()


def test_d5_active_null_drains_and_says_so() -> None:
    rig = swapped(Rig(spec("a", a=small())))
    stream = rig.world.request(None, 5.0)
    rig.edit(lambda s: s.update(active=None))
    rig.run(1)
    assert rig.world.request(None).outcome == "refused:no-model-loaded"
    assert rig.condition("Ready").reason == "NoActiveModel"
    rig.run(20)
    assert stream.outcome == "done"
    assert rig.running == []
    assert rig.loop.summary == "Ready"
    rig.clean()


def test_d5_the_active_model_taken_out_of_the_spec_finishes_its_streams() -> None:
    rig = swapped(Rig(spec("a", a=small(), b=small("b"))))
    stream = rig.world.request("a", 12.0)
    rig.write(spec("b", b=small("b")))
    rig.run(5)
    assert rig.answers == "b:./small-b"
    assert stream.outcome == "running"
    rig.run(20)
    assert stream.outcome == "done"
    assert rig.running == ["b:./small-b"]
    rig.clean()


def test_p4_a_newer_edit_cancels_a_load_and_a_late_load_does_not_publish() -> None:
    rig = swapped(Rig(spec("a", a=small(), b=large("b"))))
    rig.edit(lambda s: s.update(active="b"))
    rig.run(3)
    assert rig.world.live("b")[0].state is EngineState.LOADING
    rig.edit(lambda s: s.update(active="a"))
    rig.run(0.1)
    assert rig.world.live("b") == []
    rig.run(30)
    assert [r.engine for r in rig.world.table.routes.values() if r.status == "ready"] == [rig.engine("a").id]
    assert rig.running == ["a:./small-a"]
    assert len(rig.world.spawned("a")) == 1
    rig.clean()


def test_d3_a_stand_in_that_is_reloaded_for_its_own_sake_goes_on_standing_in() -> None:
    """Its new form takes over from its old one while it answers for an active model that cannot run."""
    rig = swapped(Rig(spec("a", a=small(residency="loaded"), b=large("b")), room=5.0))
    rig.edit(lambda s: s.update(active="b"))
    rig.run(20)
    assert rig.answers == "a:./small-a"
    rig.edit(lambda s: s["models"]["a"].update(source="./small-c"))
    rig.run(60)
    assert rig.answers == "a:./small-c"
    assert len(rig.world.spawned("a")) == 2
    assert rig.running == ["a:./small-c"]
    rig.clean()


def test_d3_a_stand_in_on_demand_is_not_reloaded_while_it_stands_in() -> None:
    rig = swapped(Rig(spec("a", a=small(residency="on_demand")), room=5.0))
    rig.edit(
        lambda s: (
            s["models"].update(
                a=large("a", residency="on_demand"), c={"source": "org/hub-a", "context": 4096}
            ),
            s.update(active="c"),
        )
    )
    rig.world.sources["org/hub-a"].fetch_fails = True
    rig.run(60)
    assert len(rig.world.spawned("a")) == 1
    rig.world.crash(rig.engine("a").id)
    rig.run(60)
    assert rig.answers == "a:./small-a"
    assert len(rig.world.spawned("a")) == 2
    rig.clean()


def test_d1_a_young_old_form_on_demand_does_not_hold_up_the_new_active_model() -> None:
    rig = swapped(Rig(spec("a", a=small(residency="on_demand"), b=small("b")), room=3.0))
    rig.edit(lambda s: (s["models"]["a"].update(source="./large-a"), s.update(active="b")))
    rig.run(20)
    assert rig.running == ["b:./small-b"]
    rig.clean()
