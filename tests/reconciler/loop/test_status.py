"""Conditions and the one word for people, in each situation."""

from __future__ import annotations

from reconciler.conditions import summary
from reconciler.events import Event, EventType
from tests.reconciler.loop.rig import Rig, small, spec

ORDER = [
    "Ready", "Synced", "ConfigAccepted", "Reconciling", "Stalled", "Degraded", "MemoryPressure",
    "ThermalPressure", "CacheReady", "KeysReady", "Suspended", "Overridden", "SourceReady", "SourceVerified",
]  # fmt: skip


def test_the_contract_names_each_condition_in_order() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    assert list(rig.loop.conditions) == ORDER
    assert all(c.observed_generation == 1 for c in rig.loop.conditions.values())


def test_while_starting() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(1)
    assert rig.loop.summary == "NotReady"
    assert rig.condition("Ready").reason == "ActiveNotLoaded"
    assert rig.condition("Reconciling").message.startswith("a is ")
    assert rig.condition("Synced").reason == "Reconciling"


def test_while_swapping() -> None:
    rig = Rig(spec("a", a=small(), b=small("b")))
    rig.run(20)
    rig.edit(lambda s: s.update(active="b"))
    rig.run(1)
    assert rig.loop.summary == "Reconciling"
    assert rig.condition("Ready").status == "True"
    assert rig.condition("Synced").message == "a answers until b is ready"


def test_a_dead_engine_is_not_ready_before_the_router_knows() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.world.crash(rig.engine("a").id)
    rig.step()
    assert rig.condition("Ready").reason == "EngineGone"


def test_a_transition_keeps_its_time_until_the_status_changes() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    at = rig.condition("Ready").last_transition
    rig.edit(lambda s: s.update(queue={"depth": 3}))
    rig.run(100)
    assert rig.condition("Ready").last_transition == at
    rig.world.crash(rig.engine("a").id)
    rig.run(1)
    assert rig.condition("Ready").last_transition > at


def test_each_change_of_a_condition_is_an_event() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    said = rig.events(EventType.CONDITION)
    assert any(m.startswith("Ready False -> True: a answers") for m in said)
    assert any(m.startswith("Synced False -> True") for m in said)


def test_a_swap_and_a_rollback_are_told_once() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.world.sources["./small-b"].fate = "fails_for_ever"
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(60)
    assert len(rig.events(EventType.SWAPPED)) == 1
    assert len(rig.events(EventType.ROLLED_BACK)) == 1
    assert len(rig.events(EventType.ENGINE_FAILED)) == 1


def test_a_retry_that_fails_again_is_no_second_rollback() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.world.sources["./small-b"].fate = "fails"
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(60)
    assert len(rig.events(EventType.ENGINE_FAILED)) > 2
    assert len(rig.events(EventType.ROLLED_BACK)) == 1


def test_observed_generation_follows_what_was_reached() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.step()
    assert (rig.loop.gate.generation, rig.loop.observed_generation) == (2, 1)
    rig.run(20)
    assert rig.loop.observed_generation == 2


def test_the_summary_is_the_first_word_that_holds() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    from dataclasses import replace

    def with_(**statuses: str) -> str:
        found = dict(rig.loop.conditions)
        for kind, status in statuses.items():
            found[kind] = replace(found[kind], status=status)  # type: ignore[arg-type]
        return summary(found)

    assert with_() == "Ready"
    assert with_(Degraded="True") == "Degraded"
    assert with_(Degraded="True", Reconciling="True") == "Reconciling"
    assert with_(Reconciling="True", Stalled="True") == "Stalled"
    assert with_(Stalled="True", Ready="False") == "NotReady"
    assert with_(Ready="False", Suspended="True") == "Suspended"


def test_every_event_type_says_what_it_means() -> None:
    assert all(t.doc.endswith(".") and t.value for t in EventType)
    shown = Event(EventType.APPLIED, "generation 1 is Ready", 5.0, 3, {"generation": 1}).as_dict()
    assert shown == {
        "id": 3, "type": "Applied", "at": 5.0, "message": "generation 1 is Ready", "data": {"generation": 1},
    }  # fmt: skip
