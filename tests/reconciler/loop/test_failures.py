"""Back-off, quarantine, and who pays for whose crash."""

from __future__ import annotations

from reconciler.backoff import CAP_S, Ledger, Record, delay
from reconciler.events import EventType
from reconciler.observed import EngineState, Failure
from tests.reconciler.loop.rig import Rig, small, spec


def crash(rig: Rig, name: str, times: int, apart: float = 10.0) -> None:
    for _ in range(times):
        rig.world.crash(rig.engine(name).id)
        rig.run(apart)


def test_a_crashed_engine_is_back_by_itself_and_the_route_waits_meanwhile() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.world.crash(rig.engine("a").id)
    asked = rig.world.request(None, 1.0)
    rig.run(20)
    assert asked.outcome in ("done", "waiting")
    assert rig.answers == "a:./small-a"
    assert rig.condition("Synced").status == "True"
    rig.clean()


def test_three_crashes_in_ten_minutes_are_quarantine() -> None:
    rig = Rig(spec("a", a=small(), b=small("b", residency="loaded")))
    rig.run(20)
    crash(rig, "a", 3)
    rig.run(700, look=60)
    assert rig.running == ["b:./small-b"]
    assert rig.condition("Stalled").reason == "Quarantined"
    assert rig.world.request().outcome == "refused:engine_failed"
    assert len(rig.events(EventType.QUARANTINED)) == 1
    rig.clean()


def test_crashes_far_apart_are_not() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    crash(rig, "a", 5, apart=301)
    assert rig.answers == "a:./small-a"
    rig.clean()


def test_an_edit_of_another_model_does_not_end_quarantine_and_one_of_this_model_does() -> None:
    rig = Rig(spec("a", a=small(), b=small("b")))
    rig.run(20)
    crash(rig, "a", 3)
    rig.edit(lambda s: s["models"]["b"].update(priority=3))
    rig.run(20)
    assert rig.running == []
    rig.edit(lambda s: s["models"]["a"].update(concurrency=1))
    rig.run(20)
    assert rig.answers == "a:./small-a"
    rig.clean()


def test_lmx_reconcile_ends_quarantine() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    crash(rig, "a", 3)
    rig.loop.retry_everything()
    rig.run(20)
    assert rig.answers == "a:./small-a"
    rig.clean()


def test_quarantine_survives_a_restart() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    crash(rig, "a", 2)
    rig.restart()
    rig.run(20)
    crash(rig, "a", 1)
    assert rig.condition("Stalled").reason == "Quarantined"
    rig.restart()
    rig.run(60)
    assert rig.running == []
    rig.clean()


def test_an_edit_taken_up_in_place_does_not_lose_count_of_crashes() -> None:
    """The engine was started from other words than the spec has now; its crash counts for those of now."""
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.edit(lambda s: s["models"]["a"].update(concurrency=2))
    rig.run(5)
    crash(rig, "a", 3)
    assert rig.condition("Stalled").reason == "Quarantined"
    rig.clean()


def test_a_failure_counts_once_however_often_it_is_seen() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.world.crash(rig.engine("a").id)
    broken = rig.loop._publish
    rig.loop._publish = lambda *_: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    rig.run(5)
    rig.loop._publish = broken  # type: ignore[method-assign]
    assert len(rig.errors) > 3
    (record,) = rig.loop.ledger.records.values()
    assert len(record.crashes) == 1
    rig.errors.clear()
    rig.run(20)
    assert rig.answers == "a:./small-a"
    rig.clean()


def test_a_back_off_does_not_make_the_router_busy() -> None:
    """While a model waits for its next try, nothing is done in a circle."""
    rig = Rig(spec("a", a=small()))
    rig.world.sources["./small-a"].fate = "fails"
    rig.run(120)
    mark = rig.mark()
    rig.run(15)
    assert len(rig.since(mark)) <= 4
    assert rig.world.table.routes["a"].status == "wait"
    assert "the disk was busy" in rig.world.table.routes["a"].message
    rig.clean()


def test_a_failed_download_backs_off_and_a_whole_one_starts_afresh() -> None:
    rig = Rig(spec("a", a={"source": "org/hub-a", "context": 4096}))
    rig.world.sources["org/hub-a"].fetch_fails = True
    rig.run(300)
    assert 3 <= rig.world.kinds().count("download") <= 9
    assert any("connection reset" in m for m in rig.events(EventType.BLOCKED))
    assert any("connection reset" in m for m in rig.events(EventType.DOWNLOAD_FAILED))
    rig.world.sources["org/hub-a"].fetch_fails = False
    rig.run(400)
    assert rig.answers == "a:org/hub-a"
    assert not rig.loop.ledger.records
    rig.clean()


def test_a_download_nobody_asks_for_any_more_is_cancelled_and_is_no_failure() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.edit(lambda s: (s["models"].update(b={"source": "org/hub-a"}), s.update(active="b")))
    rig.run(5)
    rig.edit(lambda s: (s["models"].pop("b"), s.update(active="a")))
    rig.run(5)
    assert rig.world.sources["org/hub-a"].files.state == "absent"
    assert not rig.loop.ledger.records
    rig.clean()


def test_delays_grow_to_a_cap_and_differ_by_key() -> None:
    assert 0.4 <= delay("a", 1) <= 0.6
    assert delay("a", 0) == 0.0
    assert all(delay("a", n) < delay("a", n + 2) for n in range(1, 8))
    assert 0.8 * CAP_S <= delay("a", 1000) <= 1.2 * CAP_S
    assert delay("a", 5) != delay("b", 5)


def test_a_ledger_from_a_clock_that_ran_ahead_does_not_block_for_years() -> None:
    late = Ledger({"k": Record(3, (5e9,), Failure("crash", "x"), 5e9, "", 5e9)})
    record = late.clamped(100.0).get("k")
    assert (record.last_at, record.crashes) == (100.0, (100.0,))
    assert record.retry_at <= 100.0 + 1.2 * CAP_S


def test_an_engine_that_ran_for_a_minute_has_its_first_failure_next() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    crash(rig, "a", 1, apart=70)
    (record,) = rig.loop.ledger.records.values()
    assert (record.failures, len(record.crashes)) == (0, 1)


def test_a_model_that_runs_does_not_excuse_another_with_the_very_same_fields() -> None:
    rig = Rig(spec("a", a=small(), c=small()))
    rig.run(120)
    rig.world.sources["./small-a"].fate = "fails"
    rig.edit(lambda s: s.update(active="c"))
    rig.run(120)
    assert 4 <= len(rig.world.spawned("c")) <= 8
    assert rig.answers == "a:./small-a"
    rig.clean()


def test_an_edit_taken_up_in_place_does_not_get_a_failing_model_around_its_back_off() -> None:
    rig = Rig(spec("a", a={"source": "./small-a"}))
    rig.run(20)
    rig.world.sources["./small-a"].fate = "fails"
    rig.edit(lambda s: s["models"]["a"].update(context=4096))
    rig.restart()
    rig.run(120)
    assert len(rig.world.spawned()) <= 9
    rig.clean()


def test_a_stand_in_that_fails_backs_off_although_the_spec_words_it_anew() -> None:
    rig = Rig(spec("a", a=small(), b=small("b")), room=3.0)
    rig.run(20)
    rig.world.sources["./small-a"].fate = rig.world.sources["./small-b"].fate = "fails"
    rig.edit(lambda s: (s["models"]["a"].update(concurrency=1), s.update(active="b")))
    rig.run(120)
    assert len(rig.world.spawned("a")) <= 9
    assert len(rig.world.spawned("b")) <= 9
    rig.clean()


def test_d5_no_engine_is_started_before_the_end_of_the_last_one_is_known() -> None:
    """Its connection is lost and its exit status not there yet: a start would get around the quarantine."""
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    for _ in range(3):
        engine = rig.world.ready("a")
        assert engine is not None
        spawned = len(rig.world.spawned("a"))
        rig.world._enter(engine, EngineState.STOPPING)
        rig.run(2)
        assert len(rig.world.spawned("a")) == spawned
        rig.world.crash(engine.id)
        rig.run(20)
    assert rig.world.ready("a") is None
    assert rig.condition("Stalled").reason == "Quarantined"
    rig.clean()
