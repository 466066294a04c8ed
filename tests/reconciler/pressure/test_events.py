"""One incident reads as one timeline, and flicker does not fill it."""

from __future__ import annotations

import json

from tests.reconciler.pressure.machine import CALM, CRITICAL, MIB, WARNING, Machine, engine


def test_an_incident_as_one_timeline() -> None:
    machine = Machine(ladder=("drop_caches", "shed", "unload"))
    machine.engines = (engine("idle", 10), engine("chat", 900, active=True))
    machine.read(CALM)
    machine.read(WARNING)
    machine.hold(CRITICAL, 0.5)
    machine.engines = ()
    machine.hold(CALM, 60.0)
    rise = "LMX uses 860 MiB of 1000 MiB (86.0%); warning from 85%"
    full = "LMX uses 910 MiB of 1000 MiB (91.0%); critical from 90%"
    back = "it returns when there is room, in 10 s at the earliest"
    calm = "LMX uses 500 MiB of 1000 MiB (50.0%); steps are undone below 80%"
    assert [f"{kind.value} {message}" for kind, message, _ in machine.events] == [
        f"Pressure memory pressure is warning: {rise}",
        f"StepTaken drop_caches: {rise}",
        f"Pressure memory pressure is critical: {full}",
        f"StepTaken shed: idle leaves memory; {full}",
        f"StepTaken unload: chat ends at once; {full}; {back}",
        "Pressure memory is back to normal: LMX uses 500 MiB of 1000 MiB (50.0%)",
        f"StepUndone unload is undone; chat may return; {calm}",
        f"StepUndone shed is undone; idle may return; {calm}",
        "StepUndone drop_caches is undone; there is room again",
    ]


def test_the_figures_are_in_the_data_and_fit_json() -> None:
    machine = Machine()
    machine.read(WARNING, other_bytes=3 * MIB, available_bytes=2 * MIB, heat="heavy")
    for _, _, data in machine.events:
        assert json.loads(json.dumps(data)) == data
    _, _, pressure = machine.events[0]
    assert pressure == {
        "level": "warning", "cause": "ours", "steps": ["drop_caches"], "budget_bytes": 1000 * MIB,
        "used_bytes": 860 * MIB, "other_bytes": 3 * MIB, "available_bytes": 2 * MIB, "system": "normal",
        "system_why": "", "before": "normal",
    }  # fmt: skip


def test_use_that_flickers_around_a_line_is_told_once() -> None:
    machine = Machine()
    for n in range(2000):
        machine.read(WARNING if n % 2 else CALM)
    assert len(machine.told("Pressure")) == 1


def test_a_worse_level_is_told_at_once_and_a_better_one_once_it_has_lasted() -> None:
    machine = Machine()
    machine.read(WARNING)
    machine.read(CRITICAL)
    assert len(machine.told("Pressure")) == 2
    machine.hold(CALM, 9.75)
    assert len(machine.told("Pressure")) == 2
    machine.hold(CALM, 1.0)
    assert machine.told("Pressure")[2] == ("memory is back to normal: LMX uses 500 MiB of 1000 MiB (50.0%)")


def test_the_reason_keeps_its_words_while_nothing_changes() -> None:
    machine = Machine()
    why = machine.read(WARNING).why
    assert machine.read(WARNING + 7).why == why


def test_a_reading_that_changes_nothing_tells_nothing() -> None:
    machine = Machine()
    machine.hold(WARNING, 5.0)
    count = len(machine.events)
    machine.read(WARNING, after=0.0)
    machine.read(WARNING)
    assert len(machine.events) == count


def test_an_old_unload_is_not_told_again() -> None:
    machine = Machine()
    machine.engines = (engine("chat", 900, active=True),)
    machine.up_to("unload")
    count = len(machine.told("StepTaken"))
    machine.hold(820, 4000.0, every=5.0)
    assert machine.state.unloaded == "chat"
    assert machine.state.unloads == ()
    assert len(machine.told("StepTaken")) == count
