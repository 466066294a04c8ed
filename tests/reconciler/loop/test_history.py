"""What survives a restart, on a real disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from reconciler.backoff import Ledger
from reconciler.events import Event, EventType
from reconciler.history import KEPT_GENERATIONS, Generation, History
from reconciler.known import Known
from reconciler.observed import Failure, OverrideObs
from reconciler.recall import recall
from reconciler.remembered import Memory
from tests.reconciler.loop.rig import Rig, parse, small, spec


class OnDisk(Rig):
    """A rig whose memory is the real history; each start opens it anew, as a process does."""

    def __init__(self, path: Path, *args: object, **more: object) -> None:
        self.path = path
        super().__init__(*args, store=History(path), **more)  # type: ignore[arg-type]

    def recall(self, offset: float) -> Memory:
        self.store.close()
        self.store = History(self.path)
        return recall(self.store, parse, offset)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.db"


def test_a_restart_with_a_broken_file_comes_back_with_the_same_state(path: Path) -> None:
    rig = OnDisk(path, spec("a", a=small()))
    rig.run(20)
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(20)
    rig.write(b"models: [")
    rig.restart()
    rig.run(20)
    assert rig.answers == "a:./small-b"
    assert rig.loop.gate.generation == 2
    assert rig.loop.good is not None
    assert rig.loop.good.generation == 2
    rig.clean()
    rig.store.close()


def test_what_ran_last_is_found_again_although_the_whole_was_never_good(path: Path) -> None:
    rig = OnDisk(path, spec("a", a=small()), room=3.0)
    rig.run(20)
    rig.world.sources["./small-d"].fate = "fails_for_ever"
    rig.edit(lambda s: s["models"].update(x=small("d", residency="loaded"), a=small("b")))
    rig.run(30)
    assert rig.answers == "a:./small-b"
    rig.world.sources["./small-c"].fate = "fails_for_ever"
    rig.edit(lambda s: s["models"].update(a=small("c")))
    rig.restart()
    rig.run(60)
    assert rig.running == ["a:./small-b"]
    rig.clean()
    rig.store.close()


def test_crash_counters_and_overrides_survive(path: Path) -> None:
    rig = OnDisk(path, spec("a", a=small(), b=small("b")))
    rig.run(20)
    rig.loop.force.override("b", "load")
    for _ in range(3):
        rig.world.crash(rig.engine("a").id)
        rig.run(15)
        rig.restart()
        rig.run(15)
    assert rig.condition("Stalled").reason == "Quarantined"
    assert rig.running == ["b:./small-b"]
    rig.clean()
    rig.store.close()


def test_what_was_in_force_before_a_suspension_survives(path: Path) -> None:
    rig = OnDisk(path, spec("a", a=small(), b=small("b")))
    rig.run(20)
    rig.edit(lambda s: s.update(suspend=True, active="b"))
    rig.run(5)
    rig.restart()
    rig.run(20)
    assert rig.answers == "a:./small-a"
    rig.store.close()


@pytest.mark.parametrize(
    "content", [b"this is no database, whatever its name says" * 100, b"SQLite format 3\0junk"]
)
def test_a_damaged_database_is_set_aside_whole_and_a_new_one_begun(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    for _ in range(2):  # twice in the same second: neither overwrites the other
        path.write_bytes(content)
        history = History(path)
        assert history.set_aside is not None
        assert history.set_aside.read_bytes() == content
        assert history.newest() is None
        history.close()
    assert len(list(path.parent.glob("history.db.damaged-*"))) == 2


def test_a_database_that_is_merely_locked_is_not_set_aside(path: Path) -> None:
    History(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            History(path)
    finally:
        other.close()
    assert list(path.parent.glob("*.damaged-*")) == []


def test_its_folder_and_file_are_for_this_user_only(path: Path) -> None:
    History(path).close()
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_events_have_growing_ids_and_come_back_oldest_first(path: Path) -> None:
    history = History(path)
    for n in range(5):
        history.add_event(Event(EventType.ACTION, f"step {n}", float(n), data={"n": n}))
    found = history.events(limit=3)
    assert [e.message for e in found] == ["step 2", "step 3", "step 4"]
    assert [e.id for e in history.events(after=found[1].id)] == [5]
    assert history.prune(older_than=3.0) == 3
    assert len(history.events()) == 2
    history.close()


def test_old_generations_go_but_never_one_that_is_still_needed(path: Path) -> None:
    history = History(path)
    most = KEPT_GENERATIONS + 20
    for n in range(1, most + 1):
        history.add_generation(Generation(n, f"d{n}", f"c{n}", float(n), None, b"text"))
    history.mark_applied(3, 1.0)
    history.mark_applied(2, 99.0)
    model = parse(b"version: 1\nactive: a\nmodels: {a: {source: ./a}}\n").spec
    history.save_known(Known.of(model, 7))
    history.prune(0.0)
    kept = {g.generation for g in history.generations(limit=1000)}
    assert kept == {3, 7, *range(most - KEPT_GENERATIONS + 1, most + 1)}
    good = history.last_good()
    assert good is not None
    assert good.generation == 3
    history.close()


def test_counters_are_kept_on_the_wall_clock(path: Path) -> None:
    history = History(path)
    ledger = Ledger().failed("k", Failure("crash", "boom", permanent=True), 50.0, "mark")
    history.save_ledger(ledger, offset=1000.0)
    record = history.load_ledger(offset=1030.0).get("k")
    assert record.crashes == (20.0,)
    assert record.last == Failure("crash", "boom", permanent=True)
    assert record.fingerprint == "mark"
    history.close()


def test_what_another_version_wrote_differently_is_left_out_and_said(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(path)
    history._set("ledger", {"k": {"new": 1}})
    history._set("overrides", [{"unheard": "of"}])
    assert history.load_ledger(0.0) == Ledger()
    history._set("known", ["a", {"forms": 1}])
    assert history.load_overrides() == ()
    assert history.known_generations() == (None, {})
    assert len(caplog.records) == 3
    history.close()


def test_a_value_that_is_no_json_is_left_out_and_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = History(path)
    history._db.execute("INSERT INTO meta VALUES ('known', '{cut')")
    assert history.known_generations() == (None, {})
    assert "known" in caplog.text
    history.close()


def test_overrides_and_engine_numbers_come_back(path: Path) -> None:
    history = History(path)
    override = OverrideObs("a", "load", 5.0, "a:x")
    history.save_overrides((override,))
    assert history.next_engine_number() == 1
    history.close()
    history = History(path)
    assert history.load_overrides() == (override,)
    assert history.next_engine_number() == 2
    history.close()


def test_a_generation_that_is_refused_today_falls_back_to_the_good_one(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(path)
    history.add_generation(Generation(1, "d", "c", 1.0, 2.0, b"version: 1\nactive: null\nmodels: {}\n"))
    history.add_generation(Generation(2, "d", "c", 2.0, None, b"version: 9\n"))
    memory = recall(history, parse, 0.0)
    assert memory.generation == 2
    assert memory.accepted is not None
    assert memory.accepted.generation == 1
    assert "generation 2 can no longer be used" in caplog.text
    history.close()
