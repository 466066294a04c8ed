"""A spec tried in memory: in force at once, gone by itself, and never taken for what the file says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml

from reconciler.events import EventType
from reconciler.trial import Tried
from tests.reconciler.loop.rig import Rig, parse, small, spec


def two(**more: Any) -> Rig:
    rig = Rig({**spec("a", a=small(), b=small("b")), **more})
    rig.run(20)
    return rig


def attempt(rig: Rig, change: Callable[[dict[str, Any]], object], seconds: float = 300.0) -> Tried:
    wanted = copy.deepcopy(rig.spec)
    change(wanted)
    text = yaml.safe_dump(wanted).encode()
    found = rig.loop.force.try_out(parse(text), text, seconds, "a try", "ada", rig.loop.plan)
    rig.poked = True
    return found


def to_b(wanted: dict[str, Any]) -> None:
    wanted["active"] = "b"


def test_a_try_swaps_at_once_and_comes_back_by_itself_to_the_second() -> None:
    rig = two()
    attempt(rig, to_b, 60.0)
    began = rig.world.t
    rig.run(20)
    assert rig.answers == "b:./small-b"
    shown = rig.condition("Overridden")
    assert (shown.status, rig.condition("Synced").reason) == ("True", "Trying")
    assert shown.message.startswith("a try by ada until ")
    assert shown.message.endswith("active: a -> b")
    rig.run(39.9 - (rig.world.t - began - 20))
    assert rig.loop.force.trial.tried is not None
    rig.run(0.2)
    assert rig.loop.force.trial.tried is None
    rig.run(20)
    assert rig.answers == "a:./small-a"
    assert rig.running == ["a:./small-a"]
    assert (rig.condition("Overridden").status, rig.condition("Synced").status) == ("False", "True")
    assert rig.events(EventType.TRY_ENDED) == ["a try: its time is over"]
    rig.clean()


def test_no_request_fails_there_and_back() -> None:
    rig = two()
    streams = [rig.world.request(None, 8.0)]
    attempt(rig, to_b, 30.0)
    for _ in range(60):
        rig.run(1)
        streams.append(rig.world.request(None, 1.5))
    rig.run(20)
    assert {stream.outcome for stream in streams} == {"done"}
    assert rig.answers == "a:./small-a"
    rig.clean()


def test_what_ran_in_a_try_is_neither_last_known_good_nor_remembered() -> None:
    rig = two()
    known, good = rig.store.known, rig.store.good
    attempt(rig, lambda s: s["models"]["a"].update(kv_bits=8))
    rig.run(20)
    assert rig.engine("a").form.kv_bits == 8
    assert (rig.store.known, rig.store.good, rig.loop.good) == (known, good, rig.loop.gate.accepted)
    rig.loop.force.trial.end("told to")
    rig.run(20)
    assert rig.engine("a").form.kv_bits is None
    rig.clean()


def test_a_restart_forgets_it() -> None:
    rig = two()
    attempt(rig, to_b)
    rig.run(20)
    rig.loop.force.trial.confirm("ada")
    rig.run(5)
    rig.restart()
    rig.run(20)
    assert rig.answers == "a:./small-a"
    assert rig.condition("Overridden").status == "False"
    assert rig.loop.summary == "Ready"
    rig.clean()


@pytest.mark.parametrize(
    ("edit", "ends"),
    [
        (lambda s: s["models"].update(c=small("c")), True),
        (lambda s: s.update(queue={"depth": 3}), True),
        (lambda s: s.update(active="b"), True),
        (lambda s: s.update(queue={"depth": "many"}), False),
        (lambda s: None, False),
    ],
    ids=["a model", "a limit", "the same as tried", "broken", "nothing"],
)
def test_a_new_generation_ends_it_and_nothing_less(edit: Any, ends: bool) -> None:
    rig = two()
    attempt(rig, to_b)
    rig.run(20)
    rig.edit(edit)
    rig.run(20)
    assert (rig.loop.force.trial.tried is None) is ends
    after = "a:./small-a" if ends and rig.spec["active"] == "a" else "b:./small-b"
    assert rig.answers == after
    rig.clean()


def test_a_file_that_says_the_same_takes_over_without_a_single_step() -> None:
    rig = two()
    attempt(rig, to_b)
    rig.run(20)
    mark = rig.mark()
    rig.edit(to_b)
    rig.run(30)
    assert rig.since(mark) == []
    assert rig.events(EventType.TRY_ENDED) == ["a try: the file says the same now"]
    assert rig.condition("Synced").status == "True"
    assert rig.loop.good is rig.loop.gate.accepted
    rig.clean()


def test_confirmed_it_has_no_deadline() -> None:
    rig = two()
    attempt(rig, to_b, 30.0)
    rig.run(20)
    rig.loop.force.trial.confirm("ada")
    rig.run(3600)
    assert rig.answers == "b:./small-b"
    assert "until the file changes" in rig.condition("Overridden").message
    rig.clean()


def test_a_second_try_takes_the_place_of_the_first_and_goes_back_to_the_file() -> None:
    rig = two()
    attempt(rig, to_b, 30.0)
    rig.run(20)
    attempt(rig, lambda s: s["models"]["a"].update(concurrency=2), 60.0)
    rig.run(20)
    assert rig.answers == "a:./small-a"
    rig.run(60)
    assert rig.loop.force.trial.tried is None
    assert rig.engine("a").limits.concurrency == 8
    rig.clean()


@pytest.mark.parametrize(
    ("source", "code"), [("./large-a", "insufficient_memory"), ("./small-c", "engine_failed")]
)
def test_what_cannot_run_is_over_before_anything_is_touched(source: str, code: str) -> None:
    rig = Rig(spec("a", a=small(), b=small("b")), room=4.0)
    rig.run(20)
    files = rig.world.sources["./small-c"].files
    rig.world.sources["./small-c"].files = replace(
        files, state="broken", permanent=True, message="no weights there"
    )
    stream = rig.world.request(None, 30.0)
    mark = rig.mark()
    attempt(rig, lambda s: s.update(active="b", queue={"depth": 1}, models={"b": {"source": source}}))
    rig.run(40)
    ending = rig.loop.force.trial.ending
    assert ending is not None
    assert (rig.loop.force.trial.tried, ending.code) == (None, code)
    assert ending.why.startswith("models.b cannot run: ")
    assert [a for a in rig.since(mark) if a.kind != "forget"] == []
    assert stream.outcome == "done"
    rig.clean()


def test_a_memory_budget_that_cannot_be_kept_takes_no_step_of_the_ladder() -> None:
    rig = two()
    rig.world.advance(1.0)  # there is a reading that no pass has seen yet
    mark = rig.mark()
    attempt(rig, lambda s: s.update(memory={"budget": "256MiB"}))
    rig.run(40)
    ending = rig.loop.force.trial.ending
    assert ending is not None
    assert ending.code == "insufficient_memory"
    assert rig.since(mark) == []
    assert rig.events(EventType.STEP_TAKEN) == []
    assert rig.condition("MemoryPressure").status == "False"
    rig.clean()


def test_what_fails_for_good_on_the_way_ends_it_and_the_old_model_has_answered_all_the_time() -> None:
    rig = two()
    rig.world.sources["./small-b"].fate = "fails_for_ever"
    attempt(rig, to_b)
    for _ in range(30):
        rig.run(1)
        assert rig.answers == "a:./small-a"
    assert rig.loop.force.trial.tried is None
    assert "models.b cannot run" in rig.events(EventType.TRY_ENDED)[0]
    assert rig.condition("Stalled").status == "False"
    rig.clean()


def test_what_could_not_run_before_is_not_held_against_it() -> None:
    rig = Rig(spec("a", a=small(), b=small("b"), x=small("d", residency="loaded")))
    rig.world.sources["./small-d"].fate = "fails_for_ever"
    rig.run(30)
    assert rig.condition("Stalled").status == "True"
    attempt(rig, to_b)
    rig.run(20)
    assert rig.answers == "b:./small-b"
    assert rig.loop.force.trial.tried is not None


def test_admin_calls_rest_while_a_try_says_otherwise_and_hold_again_after_it() -> None:
    rig = two()
    rig.loop.force.override("b", "load")
    rig.run(20)
    attempt(rig, lambda s: s.update(active=None), 60.0)
    rig.run(20)
    assert rig.running == []
    rig.run(80)
    assert rig.running == ["a:./small-a", "b:./small-b"]
    assert rig.condition("Overridden").message == "load b"
    rig.clean()


def test_admin_calls_made_in_a_try_end_with_it() -> None:
    rig = two()
    attempt(rig, to_b, 60.0)
    rig.run(20)
    rig.loop.force.override("a", "load")
    rig.run(20)
    assert rig.running == ["a:./small-a", "b:./small-b"]
    rig.run(60)
    assert rig.loop.force.overrides == ()
    assert rig.running == ["a:./small-a"]
    rig.clean()


def test_failures_of_the_files_own_models_are_remembered_over_a_try() -> None:
    rig = Rig(spec("a", a=small(), x=small("d", residency="loaded")))
    rig.world.sources["./small-d"].fate = "fails_for_ever"
    rig.run(30)
    starts = len([a for a in rig.world.actions if a.kind == "spawn" and a.subject == "x"])
    attempt(rig, lambda s: s["models"].pop("x"), 30.0)
    rig.run(60)
    assert len([a for a in rig.world.actions if a.kind == "spawn" and a.subject == "x"]) == starts
