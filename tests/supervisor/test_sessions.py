"""Which sessions count as known, on a virtual clock."""

from __future__ import annotations

from appliance.supervisor import sessions
from appliance.supervisor.sessions import Sessions


def test_a_session_is_known_while_it_runs_and_for_ten_minutes_after() -> None:
    seen = Sessions()
    assert not seen.known("demo", "a", 0.0)
    seen.began("demo", "a", 0.0)
    assert seen.known("demo", "a", 5000.0)
    seen.ended("demo", "a", 5000.0)
    assert seen.known("demo", "a", 5599.0)
    assert not seen.known("demo", "a", 5601.0)


def test_a_session_belongs_to_one_model_and_no_session_is_never_known() -> None:
    seen = Sessions()
    seen.began("demo", "a", 0.0)
    seen.began("demo", None, 0.0)
    assert not seen.known("other", "a", 0.0)
    assert not seen.known("demo", "b", 0.0)
    assert not seen.known("demo", None, 0.0)


def test_two_requests_of_one_session_end_one_by_one() -> None:
    seen = Sessions()
    seen.began("demo", "a", 0.0)
    seen.began("demo", "a", 0.0)
    seen.ended("demo", "a", 1.0)
    assert seen.known("demo", "a", 10_000.0)
    seen.ended("demo", "a", 10_000.0)
    assert not seen.known("demo", "a", 20_000.0)


def test_however_many_names_clients_make_up_the_newest_are_kept() -> None:
    seen = Sessions()
    for number in range(3 * sessions.MOST):
        seen.began("demo", f"{number}", 0.0)
    assert len(seen) == sessions.MOST
    assert not seen.known("demo", "0", 0.0)
    assert seen.known("demo", f"{3 * sessions.MOST - 1}", 0.0)
    seen.ended("demo", "0", 0.0)  # forgotten while it ran
    assert seen.known("demo", "0", 1.0)
    assert not seen.known("demo", "0", 601.0)


def test_names_themselves_are_not_kept() -> None:
    seen = Sessions()
    seen.began("demo", "ada@example.org", 0.0)
    assert "ada" not in repr(vars(seen))
