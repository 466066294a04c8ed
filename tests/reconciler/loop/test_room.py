"""Decision 4: what fits, next to what. Nothing is drained for a model that does not fit."""

from __future__ import annotations

from dataclasses import replace

from reconciler.actions import Configure, Drain, Spawn
from reconciler.backoff import Ledger
from reconciler.decide import Desired, decide
from tests.reconciler.loop.rig import Rig, large, medium, small, spec


def test_d4_what_cannot_fit_is_refused_before_anything_is_drained() -> None:
    rig = Rig(spec("a", a=small()), room=4.0)
    rig.run(20)
    mark = rig.mark()
    rig.edit(lambda s: s["models"].update(a=large()))
    rig.run(300, look=60)
    assert not any(isinstance(a, Drain | Spawn) for a in rig.since(mark))
    synced = rig.condition("Synced")
    assert synced.reason == "InsufficientMemory"
    assert "weights 4.0 GiB" in synced.message
    assert "4.0 GiB (memory.budget x memory.warning)" in synced.message
    assert rig.answers == "a:./small-a"
    assert rig.loop.summary == "Stalled"
    rig.clean()


def test_d4_an_edit_does_not_push_out_what_stays_loaded() -> None:
    rig = Rig(spec("a", a=small(), b=small("b", residency="loaded")), room=4.0)
    rig.run(20)
    mark = rig.mark()
    rig.edit(lambda s: s["models"].update(a=medium()))
    rig.run(60)
    assert not any(isinstance(a, Drain) for a in rig.since(mark))
    assert rig.running == ["a:./small-a", "b:./small-b"]
    assert "next to what stays loaded" in rig.condition("Synced").message
    rig.clean()


def test_d4_a_new_form_of_what_stays_loaded_comes_before_a_newcomer() -> None:
    rig = Rig(spec(None, a=small(residency="loaded"), c=large()), room=5.0)
    rig.run(20)
    rig.edit(lambda s: (s["models"]["a"].update(source="./small-b"), s.update(active="c")))
    rig.run(60)
    assert rig.running == ["a:./small-b"]
    assert "models.c: does not fit" in rig.condition("Synced").message
    rig.clean()


def test_d4_two_models_with_the_very_same_fields_are_judged_one_by_one() -> None:
    rig = Rig(spec(None, a=small(residency="loaded"), b=small(residency="loaded")), room=3.0)
    rig.run(60)
    assert rig.running == ["a:./small-a"]
    assert "models.b" in rig.condition("Synced").message
    rig.clean()


def test_d4_a_budget_that_still_holds_what_runs_but_not_what_it_may_grow_to_leaves_everything() -> None:
    rig = Rig(spec("a", a=small(), b=small("b", residency="loaded")))
    rig.run(20)
    mark = rig.mark()
    rig.edit(lambda s: s.update(memory={"budget": "3.9GiB"}))
    rig.run(60)
    assert {a.kind for a in rig.since(mark)} == {"configure"}
    assert rig.condition("Synced").reason == "InsufficientMemory"
    assert "goes on running" in rig.condition("Synced").message
    rig.edit(lambda s: s.update(memory={"budget": "auto"}))
    rig.run(60)
    assert rig.condition("Synced").status == "True"
    rig.clean()


def test_d4_auto_context_is_the_largest_that_fits_and_shrinks_for_company() -> None:
    rig = Rig(spec("a", a={"source": "./small-a"}, b=small("b")), room=5.0)
    rig.run(20)
    alone = rig.engine("a").limits.context
    assert 4096 < alone < 40960
    mark = rig.mark()
    rig.edit(lambda s: s["models"]["b"].update(residency="loaded"))
    rig.run(20)
    assert [a.kind for a in rig.since(mark)] == ["route", "configure", "load", "route"]
    shared = rig.engine("a").limits.context
    assert 4096 <= shared < alone
    rig.clean()


def test_d4_a_declared_context_is_a_promise() -> None:
    rig = Rig(spec("a", a={"source": "./small-a", "context": 40960}), room=4.0)
    rig.run(20)
    assert rig.running == []
    assert rig.condition("Synced").reason == "InsufficientMemory"
    assert rig.world.request().outcome == "refused:insufficient_memory"
    rig.edit(lambda s: s["models"]["a"].update(context=8192))
    rig.run(20)
    assert rig.engine("a").limits.context == 8192
    rig.clean()


def test_p6_limits_change_in_place_and_no_engine_is_touched() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    mark, engine = rig.mark(), rig.engine("a")
    rig.edit(lambda s: s["models"]["a"].update(context=8192, concurrency=2, sampling={"temperature": 0}))
    rig.run(20)
    changed = rig.since(mark)
    assert [a.kind for a in changed] == ["route", "configure"]
    assert isinstance(changed[1], Configure)
    assert "context 4096 -> 8192" in changed[1].reason
    assert engine.limits.context == 8192
    assert engine.limits.sampling["temperature"] == 0
    assert rig.world.table.routes["a"].concurrency == 2
    rig.clean()


def test_d4_a_longer_context_that_does_not_fit_is_not_promised_to_anybody() -> None:
    rig = Rig(spec("a", a=small()), room=3.0)
    rig.run(20)
    mark = rig.mark()
    rig.edit(lambda s: s["models"]["a"].update(context=40960))
    rig.run(20)
    assert rig.condition("Synced").reason == "InsufficientMemory"
    assert rig.engine("a").limits.context == 4096
    rig.run(60)
    assert {a.kind for a in rig.since(mark)} <= {"configure"}
    rig.restart()
    rig.run(20)
    assert rig.engine("a").limits.context == 4096
    assert rig.condition("Synced").reason == "InsufficientMemory"
    rig.clean()


def test_d4_what_stays_loaded_keeps_its_place_while_it_is_replaced_by_its_new_form() -> None:
    rig = Rig(spec(None, a=small(), b=small("b", residency="loaded")), room=3.0)
    rig.run(20)
    rig.edit(lambda s: s.update(active="a"))
    rig.run(20)
    assert rig.running == ["b:./small-b"]
    rig.edit(lambda s: s["models"]["b"].update(source="./small-c"))
    rig.run(60)
    assert rig.running == ["b:./small-c"]
    rig.restart()
    rig.run(60)
    assert rig.running == ["b:./small-c"]
    rig.clean()


def test_p9_a_model_is_started_with_its_own_words_although_another_has_the_same_digest() -> None:
    rig = Rig(spec("a", a=small(), b=small(context=16384, probe={"prompt": "other"})))
    rig.run(20)
    assert rig.engine("a").form.probe.prompt == "ping"
    rig.clean()


def test_p6_files_that_vanish_do_not_take_the_context_of_a_running_model() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    source = rig.world.sources["./small-a"]
    source.files = replace(source.files, state="broken", permanent=True, message="gone")
    mark = rig.mark()
    rig.run(60)
    assert rig.since(mark) == []
    assert rig.engine("a").limits.context == 4096
    rig.clean()


def test_p5_names_and_aliases_touch_no_engine() -> None:
    rig = Rig(spec("a", a=small(aliases=["one"]), b=small("b", aliases=["two"])))
    rig.run(20)
    mark = rig.mark()
    rig.edit(lambda s: s["models"]["a"].update(aliases=["three"]))
    rig.run(20)
    assert [a.kind for a in rig.since(mark)] == ["route"]
    names = rig.world.table.names
    assert (names["three"], names["two"], names["./small-a"]) == ("a", "b", "a")
    assert "one" not in names
    rig.clean()


def test_p5_an_alias_beats_a_source_whoever_comes_first() -> None:
    rig = Rig(spec(None, a={"source": "org/hub-a"}, b=small(aliases=["org/hub-a"])))
    rig.run(1)
    assert rig.world.table.names["org/hub-a"] == "b"
    assert rig.world.table.names["a"] == "a"


def test_p5_a_model_that_cannot_say_its_size_is_named() -> None:
    rig = Rig()
    source = rig.world.sources["./small-a"]
    source.replaced()
    # A mark of its own: what is computed from files is kept by it, for the whole process.
    source.files = replace(source.files, config={}, fingerprint="says too little")
    rig.write(spec("a", a=small()))
    rig.run(20)
    assert rig.condition("Synced").reason == "CannotForecast"
    assert rig.running == []
    rig.clean()


def test_p5_a_context_beyond_the_models_own_is_refused_also_where_it_runs() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    before = rig.world.engines["a-1"].limits
    rig.edit(lambda s: s["models"]["a"].update(context=2**24))
    rig.run(20)
    synced = rig.condition("Synced")
    assert (synced.status, synced.reason) == ("False", "CannotForecast")
    assert "more than the model's own maximum" in synced.message
    assert rig.condition("Ready").status == "True"
    assert rig.world.engines["a-1"].limits == before
    rig.edit(lambda s: s["models"]["a"].update(context=4096))
    rig.run(20)
    assert rig.condition("Synced").status == "True"
    rig.clean()


def test_d4_two_that_keep_each_other_out_do_not_both_stay_out() -> None:
    """A newcomer has no room next to what was loaded; that has none next to the newcomer's stand-in."""
    rig = Rig(spec("a", a=small(), b=small("b"), c=medium(residency="loaded")), room=3.8)
    rig.run(20)
    new, old = rig.loop.force.file, rig.loop.force.file
    new = new.model_copy(update={"active": "b"})
    old = old.model_copy(update={"models": {n: old.models[n] for n in "ac"}})  # b has never run
    assert rig.loop.seen is not None
    found = decide(Desired(new, old), rig.loop.seen, Ledger())
    assert [(c.name, c.form is not None) for c in found.choices] == [("b", True), ("a", True), ("c", False)]
    assert found.stand_in == "a"
