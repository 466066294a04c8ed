"""An engine that uses more than it was let in for is ended, and no other."""

from __future__ import annotations

from tests.reconciler.pressure.machine import CALM, CRITICAL, WARNING, Machine, engine


def test_an_engine_beyond_its_allowance_and_a_quarter_is_runaway_while_use_is_critical() -> None:
    machine = Machine()
    machine.engines = (engine("wild", 700, 400), engine("chat", 200, active=True))
    assert machine.read(WARNING).runaway == ()
    assert machine.read(CRITICAL).runaway == ("e-wild",)
    (told,) = machine.told("EngineRunaway")
    assert told == (
        "wild uses 700 MiB and was let in for 400 MiB at most: its engine e-wild is ended at once; "
        "LMX uses 910 MiB of 1000 MiB (91.0%)"
    )


def test_a_quarter_more_and_64_mib_are_allowed() -> None:
    for memory, expected in ((563, ()), (564, ("e-chat",))):
        machine = Machine()
        machine.engines = (engine("chat", memory, 400, active=True),)
        assert machine.read(CRITICAL).runaway == expected


def test_an_engine_that_was_let_in_for_most_of_the_budget_is_runaway_beyond_the_budget() -> None:
    machine = Machine()
    machine.engines = (engine("chat", 1000, 850, active=True),)
    assert machine.read(1000).runaway == ()
    machine.engines = (engine("chat", 1001, 850, active=True),)
    assert machine.read(1001).runaway == ("e-chat",)


def test_where_nobody_is_over_nobody_is_runaway() -> None:
    machine = Machine()
    machine.engines = (engine("one", 450, 440), engine("two", 450, 440, active=True))
    assert machine.hold(CRITICAL, 60.0).runaway == ()


def test_an_engine_without_an_allowance_is_not_judged() -> None:
    machine = Machine()
    machine.engines = (engine("loading", 900, 0),)
    assert machine.hold(CRITICAL, 60.0).runaway == ()


def test_the_worst_comes_first_and_stays_listed_until_it_is_gone() -> None:
    machine = Machine()
    machine.engines = (engine("bad", 300, 100), engine("worse", 600, 100))
    assert machine.read(CRITICAL).runaway == ("e-worse", "e-bad")
    machine.engines = (engine("bad", 50, 100), engine("worse", 600, 100))
    assert machine.read(CALM).runaway == ("e-worse", "e-bad")
    machine.engines = (engine("bad", 50, 100),)
    assert machine.read(CALM).runaway == ("e-bad",)
    machine.engines = ()
    assert machine.read(CALM).runaway == ()


def test_while_a_runaway_engine_is_ended_nothing_else_gives_way() -> None:
    machine = Machine()
    machine.engines = (engine("wild", 700, 100), engine("idle", 50), engine("chat", 200, active=True))
    assert machine.hold(CRITICAL, 2.0).steps == ()
    machine.engines = machine.engines[1:]
    assert machine.hold(250, 60.0).steps == ()


def test_one_that_will_not_go_is_not_waited_for_and_still_costs_no_other_model_its_place() -> None:
    """Its memory counts as on its way out, so neither `shed` nor `unload` goes on meanwhile."""
    machine = Machine()
    machine.engines = (engine("wild", 700, 100), engine("idle", 50), engine("chat", 200, active=True))
    assert machine.hold(CRITICAL, 2.25).steps == ("drop_caches",)
    machine.hold(CRITICAL, 5.0)
    assert machine.state.runaway == ("e-wild",)
    assert (machine.state.shed, machine.state.unloaded) == ((), None)


def test_where_ending_it_is_not_enough_the_ladder_goes_on() -> None:
    machine = Machine()
    machine.engines = (engine("wild", 200, 50), engine("chat", 890, active=True))
    assert machine.read(1090).steps == ("drop_caches",)


def test_an_engine_that_grows_beyond_its_allowance_at_critical_is_runaway_after_half_a_second() -> None:
    """One that may have nearly all of the budget never gets to a quarter more than that."""
    machine = Machine()
    for memory in (830, 845, 860):
        machine.engines = (engine("chat", memory, 800, active=True),)
        assert machine.read(memory + 80).runaway == (("e-chat",) if memory == 860 else ())
    assert "unload" not in machine.state.steps


def test_one_that_stops_growing_for_a_moment_or_stays_within_its_allowance_is_left_to_the_ladder() -> None:
    machine = Machine()
    for memory in (830, 845, 845, 860, 860, 875, 875):
        machine.engines = (engine("chat", memory, 800, active=True),)
        assert machine.read(memory + 80).runaway == ()
    machine = Machine()
    for memory in range(830, 900, 10):
        machine.engines = (engine("chat", memory, 900, active=True),)
        assert machine.read(memory + 80).runaway == ()


def test_growth_counts_from_anew_after_critical_is_left() -> None:
    machine = Machine()
    for use, memory in ((CRITICAL, 830), (CRITICAL, 840), (CALM, 850), (CRITICAL, 860), (CRITICAL, 870)):
        machine.engines = (engine("chat", memory, 800, active=True),)
        assert machine.read(use).runaway == ()
