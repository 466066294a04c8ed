"""Decisions 2 and 3: what cannot run is replaced by what did, for each model and for `active`."""

from __future__ import annotations

import pytest

from reconciler.actions import Drain
from reconciler.events import EventType
from tests.reconciler.loop.rig import Rig, large, medium, small, spec

BESIDE, DRAIN_FIRST = 9.0, 3.0


@pytest.mark.parametrize("room", [BESIDE, DRAIN_FIRST])
@pytest.mark.parametrize("fate", ["fails", "fails_for_ever", "probe_fails"])
def test_d2_another_source_of_the_same_model_fails(room: float, fate: str) -> None:
    rig = Rig(spec("a", a=small()), room=room)
    rig.run(20)
    rig.world.sources["./small-b"].fate = fate  # type: ignore[assignment]
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(60)
    assert rig.answers == "a:./small-a"
    synced = rig.condition("Synced")
    assert (synced.status, synced.reason) == (
        "False",
        "ProbeFailed" if fate == "probe_fails" else "LoadFailed",
    )
    assert rig.condition("Ready").status == "True"
    assert rig.events(EventType.ROLLED_BACK)
    rig.clean()


@pytest.mark.parametrize("room", [BESIDE, DRAIN_FIRST])
@pytest.mark.parametrize("fate", ["fails", "fails_for_ever", "probe_fails"])
def test_d3_another_active_model_fails(room: float, fate: str) -> None:
    rig = Rig(spec("a", a=small(), b=small("b")), room=room)
    rig.run(20)
    rig.world.sources["./small-b"].fate = fate  # type: ignore[assignment]
    rig.edit(lambda s: s.update(active="b"))
    rig.run(60)
    assert rig.answers == "a:./small-a"
    assert rig.condition("Synced").status == "False"
    assert rig.condition("Ready").status == "True"
    assert rig.world.request("b").outcome.startswith(("refused:engine_failed", "waiting"))
    rig.clean()


def test_d3_the_model_before_comes_back_although_the_edit_took_it_out_of_the_spec() -> None:
    rig = Rig(spec("a", a=small()), room=DRAIN_FIRST)
    rig.run(20)
    rig.world.sources["./small-b"].fate = "fails_for_ever"
    rig.write(spec("b", b=small("b")))
    rig.run(60)
    assert rig.answers == "a:./small-a"
    assert "b cannot run" in rig.events(EventType.ROLLED_BACK)[0]
    rig.clean()


def test_d2_the_rest_of_the_edit_applies() -> None:
    rig = Rig(spec("a", a=small(), c=small("c")))
    rig.run(20)
    rig.world.sources["./small-b"].fate = "fails_for_ever"

    def change(s: dict) -> None:  # type: ignore[type-arg]
        s["models"]["a"] = small("b")
        s["models"]["c"]["residency"] = "loaded"
        s["server"]["port"] = 1300

    rig.edit(change)
    rig.run(60)
    assert rig.running == ["a:./small-a", "c:./small-c"]
    assert [p for _, p in rig.world.listeners] == [1300]
    rig.clean()


@pytest.mark.parametrize("same_name", [True, False])
def test_d2_no_flapping_between_a_failed_form_and_its_fallback(same_name: bool) -> None:
    """After a drain-first swap that failed, the next try would interrupt the model that works."""
    rig = Rig(spec("a", a=small(), b=small("b")), room=DRAIN_FIRST)
    rig.run(20)
    rig.world.sources["./small-b"].fate = "fails"
    rig.edit(lambda s: s["models"].update(a=small("b")) if same_name else s.update(active="b"))
    rig.run(60)
    mark = rig.mark()
    rig.run(3600, look=100)
    assert rig.since(mark) == []
    assert rig.answers == "a:./small-a"
    assert rig.condition("Stalled").status == "True"
    assert "would interrupt the model that works" in rig.condition("Stalled").message
    rig.clean()


def test_d2_a_failed_form_is_tried_again_beside_the_one_that_works() -> None:
    rig = Rig(spec("a", a=small()), room=BESIDE)
    rig.run(20)
    source = rig.world.sources["./small-b"]
    source.fate = "fails"
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(120)
    tries = len(rig.world.spawned())
    assert tries > 4
    assert not any(isinstance(a, Drain) for a in rig.world.actions)
    source.fate = "ok"
    rig.run(400)
    assert rig.answers == "a:./small-b"
    assert rig.condition("Synced").status == "True"
    rig.clean()


def test_d2_lmx_reconcile_tries_again_at_once_even_where_that_interrupts() -> None:
    rig = Rig(spec("a", a=small()), room=DRAIN_FIRST)
    rig.run(20)
    source = rig.world.sources["./small-b"]
    source.fate = "fails"
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(60)
    source.fate = "ok"
    rig.run(600, look=60)
    assert rig.answers == "a:./small-a"
    rig.loop.retry_everything()
    rig.run(30)
    assert rig.answers == "a:./small-b"
    rig.clean()


def test_d2_a_permanent_failure_is_tried_again_when_the_files_change() -> None:
    rig = Rig(spec("a", a=small()), room=DRAIN_FIRST)
    rig.run(20)
    source = rig.world.sources["./small-b"]
    source.fate = "fails_for_ever"
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(600, look=60)
    assert rig.condition("Stalled").status == "True"
    assert len(rig.world.spawned()) == 3
    source.fate = "ok"
    source.replaced()
    rig.run(60)
    assert rig.answers == "a:./small-b"
    rig.clean()


def test_d2_files_replaced_while_they_were_being_loaded_count_as_new() -> None:
    rig = Rig(spec("a", a=small()), room=BESIDE)
    rig.run(20)
    source = rig.world.sources["./large-b"]
    source.fate = "fails_for_ever"
    rig.edit(lambda s: s["models"].update(a=large("b")))
    rig.run(4)
    source.replaced()
    source.fate = "ok"
    rig.run(60)
    assert rig.answers == "a:./large-b"


def test_d2_what_ran_last_comes_back_and_not_what_ran_when_all_was_well() -> None:
    """Another model that cannot run keeps the whole from being synced; that must not make this one forget."""
    rig = Rig(spec("a", a=small()), room=BESIDE)
    rig.run(20)
    rig.world.sources["./medium-d"].fate = "fails_for_ever"
    rig.edit(lambda s: s["models"].update(x=medium("d", residency="loaded")))
    rig.run(20)
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(30)
    assert rig.answers == "a:./small-b"
    assert rig.condition("Synced").status == "False"
    rig.world.sources["./small-c"].fate = "fails_for_ever"
    rig.edit(lambda s: s["models"].update(a=small("c")))
    rig.run(30)
    assert rig.running == ["a:./small-b"]
    rig.clean()


def test_d2_a_crash_does_not_bring_the_old_model_back_once_the_new_one_ran() -> None:
    rig = Rig(spec("a", a=small()), room=DRAIN_FIRST)
    rig.world.sources["./medium-d"].fate = "fails_for_ever"
    rig.run(20)
    rig.edit(lambda s: s["models"].update(a=small("b"), x=medium("d")))
    rig.run(20)
    rig.world.crash(rig.engine("a").id)
    rig.run(20)
    assert [s.model for s in rig.world.spawned()] == ["a", "a", "a"]
    assert rig.answers == "a:./small-b"
    rig.clean()


def test_d2_both_forms_fail_and_each_is_tried_until_one_runs() -> None:
    rig = Rig(spec("a", a=small()), room=DRAIN_FIRST)
    rig.run(20)
    old, new = rig.world.sources["./small-a"], rig.world.sources["./small-b"]
    old.fate = new.fate = "fails"
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(300, look=60)
    tried = {s.own_digest for s in rig.world.spawned()[1:]}
    assert len(tried) == 2
    new.fate = "ok"
    rig.run(400)
    assert rig.answers == "a:./small-b"
    rig.clean()


def test_d2_without_rollback_the_old_model_goes_when_the_new_one_can_never_run() -> None:
    rig = Rig(spec("a", a=small()), room=BESIDE)
    rig.run(20)
    rig.world.sources["./small-b"].fate = "fails_for_ever"
    rig.edit(lambda s: (s.update(swap={"rollback": False}), s["models"].update(a=small("b"))))
    rig.run(30)
    assert rig.running == []
    assert rig.condition("Ready").status == "False"
    assert rig.world.request().outcome == "refused:engine_failed"
    rig.clean()


def test_d2_without_rollback_the_old_model_answers_while_the_new_one_may_still_come() -> None:
    rig = Rig(spec("a", a=small()), room=BESIDE)
    rig.run(20)
    source = rig.world.sources["./small-b"]
    source.fate = "fails"
    rig.edit(lambda s: (s.update(swap={"rollback": False}), s["models"].update(a=small("b"))))
    rig.run(30)
    assert rig.answers == "a:./small-a"
    source.fate = "ok"
    rig.run(60)
    assert rig.answers == "a:./small-b"
    rig.clean()


def test_d2_after_a_restart_what_ran_answers_while_the_new_one_is_fetched() -> None:
    rig = Rig(spec("a", a=small()), room=BESIDE)
    rig.run(20)
    rig.edit(lambda s: s["models"].update(a={"source": "org/hub-a", "context": 4096}))
    rig.run(5)
    assert rig.answers == "a:./small-a"
    rig.restart()
    rig.run(8)
    assert rig.answers == "a:./small-a"
    rig.run(60)
    assert rig.answers == "a:org/hub-a"
    rig.clean()


def test_d2_broken_files_are_refused_with_the_reason_and_taken_up_when_whole() -> None:
    from dataclasses import replace

    rig = Rig(spec("a", a=small()), room=DRAIN_FIRST)
    rig.run(20)
    source = rig.world.sources["./small-b"]
    whole = source.files
    source.files = replace(whole, state="broken", permanent=True, message="model.safetensors is cut short")
    rig.edit(lambda s: s["models"].update(a=small("b")))
    mark = rig.mark()
    rig.run(60)
    assert not any(isinstance(a, Drain) for a in rig.since(mark))
    assert rig.condition("Synced").reason == "ModelFilesBroken"
    assert "cut short" in rig.condition("Synced").message
    source.files = whole
    rig.run(60)
    assert rig.answers == "a:./small-b"
    rig.clean()


def test_d3_a_form_that_never_ran_is_not_what_a_rollback_goes_back_to() -> None:
    """One edit makes another model active and gives it a form that fails; it has only lain on disk before."""
    rig = Rig(spec("a", a=small(), c=medium()), room=BESIDE)
    rig.run(20)
    rig.world.sources["./small-b"].fate = "fails_for_ever"
    rig.edit(lambda s: (s["models"].update(c=small("b")), s.update(active="c")))
    rig.run(60)
    assert rig.running == ["a:./small-a"]
    assert rig.answers == "a:./small-a"
    rig.clean()


def test_d2_requests_wait_while_the_last_good_form_only_backs_off() -> None:
    """The edit itself cannot run before somebody mends it, but its requests need not know."""
    rig = Rig(spec("a", a=small()), room=BESIDE)
    rig.run(20)
    rig.world.sources["./small-b"].fate = "fails_for_ever"
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(60)
    rig.world.sources["./small-a"].fate = "fails"
    rig.world.crash(rig.engine("a").id)
    rig.run(4)
    assert rig.answers is None
    route = rig.world.table.routes["a"]
    assert (route.status, route.retry_after) == ("wait", 2.0)
    asked = rig.world.request("a")
    rig.world.sources["./small-a"].fate = "ok"
    rig.run(60)
    assert (asked.outcome, rig.answers) == ("done", "a:./small-a")
    rig.clean()


def test_d2_a_refusal_names_both_forms_where_neither_can_run() -> None:
    rig = Rig(spec("a", a=small()), room=BESIDE)
    rig.run(20)
    for source in ("./small-a", "./small-b"):
        rig.world.sources[source].fate = "fails_for_ever"
    rig.world.crash(rig.engine("a").id)
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(60)
    assert rig.answers is None
    route = rig.world.table.routes["a"]
    assert (route.status, route.retry_after) == ("refuse", None)
    assert route.message.startswith("a cannot run: ")
    assert "; nor can it as it ran before: " in route.message
    rig.clean()
