"""What an appliance remembers stays small and cheap, whatever happens a thousand times a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.remembered import RECENT, STORM, Remembered
from reconciler import history as histories
from reconciler.events import Event, EventType
from reconciler.history import Generation, History
from reconciler.observed import OverrideObs


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path / "history.db")
    yield made
    made.close()


def condition(number: int) -> Event:
    return Event(EventType.CONDITION, f"Ready True -> False {number}", float(number))


def test_a_storm_of_one_type_is_written_down_in_part_and_counted_whole(history: History) -> None:
    remembered = Remembered(history)
    kept = [remembered.add_event(condition(number)).kept for number in range(1000)]
    assert kept == [True] * STORM + [False] * (1000 - STORM)
    other = remembered.add_event(Event(EventType.SWAPPED, "mini answers now", 2.0))
    assert other.kept  # what matters is not lost in another type's storm
    assert other.id == STORM + 1
    assert len(history.events(limit=2000)) == STORM + 1
    assert remembered.sum_up() == {EventType.CONDITION: 1000 - STORM}
    assert remembered.sum_up() == {}
    assert remembered.add_event(condition(0)).kept


def test_recent_events_are_the_newest_also_after_a_restart(history: History) -> None:
    remembered = Remembered(history)
    for number in range(STORM):
        remembered.add_event(condition(number))
    remembered.sum_up()
    for number in range(STORM, STORM + 10):
        remembered.add_event(condition(number))
    expected = [f"Ready True -> False {number}" for number in range(10, STORM + 10)][-RECENT:]
    assert [event["message"] for event in remembered.recent()] == expected
    assert [event["message"] for event in Remembered(history).recent()] == expected


def test_one_that_gave_the_state_away_writes_nothing_and_is_in_no_trouble(history: History) -> None:
    remembered = Remembered(history)
    remembered.add_event(condition(1))
    remembered.sealed = True
    kept = remembered.add_event(condition(2))
    remembered.save_overrides((OverrideObs("mini", "load", 1.0, "x"),))
    assert [event.message for event in history.events()] == ["Ready True -> False 1"]
    assert history.load_overrides() == ()
    assert (kept.id, remembered.trouble) == (2, None)
    history.add_event(condition(3))  # what another process has written
    remembered.sealed = False
    remembered.reread()
    assert [event["message"][-1] for event in remembered.recent()] == ["1", "3"]


def test_generations_are_read_when_they_change_and_not_for_each_look(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    real = history.generations

    def counted(limit: int = 20) -> list[Generation]:
        reads.append(limit)
        return real(limit)

    monkeypatch.setattr(history, "generations", counted)
    remembered = Remembered(history)
    history.add_generation(Generation(1, "d", "c", 1.0, None, b""))
    for _ in range(10):
        assert [g["applied_at"] for g in remembered.history()] == [None]
    assert len(reads) == 1
    remembered.applied(1, 5.0)
    assert [g["applied_at"] for g in remembered.history()] == [5.0]
    assert len(reads) == 2


def test_events_are_bounded_by_age_and_by_number_and_deleted_a_few_at_a_time(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(histories, "AT_ONCE", 40)
    for number in range(200):
        history.add_event(condition(number))
    deleted = []
    while not deleted or deleted[-1] == 40:
        deleted.append(history.prune(older_than=50.0, keep=90))
    assert deleted == [40, 40, 30]
    assert [event.at for event in history.events(limit=1000)] == [float(n) for n in range(110, 200)]


def test_pruning_says_whether_there_is_more(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "AT_ONCE", 40)
    monkeypatch.setattr("appliance.remembered.AT_ONCE", 40)
    for number in range(60):
        history.add_event(condition(number))
    remembered = Remembered(history)
    assert remembered.prune(1000.0)
    assert not remembered.prune(1000.0)
    assert history.events() == []
