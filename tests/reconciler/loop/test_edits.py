"""What an edit does: accepted in order, refused with the reason, and never more than it says."""

from __future__ import annotations

from reconciler.events import EventType
from tests.reconciler.loop.rig import MemoryStore, Rig, small, spec


def test_twenty_accepted_edits_in_a_row_end_in_exactly_the_last() -> None:
    rig = Rig(spec("a", a=small(), b=small("b")))
    rig.run(20)
    for n in range(20):
        rig.edit(
            lambda s, n=n: s.update(  # type: ignore[misc]
                active="ab"[n % 2], queue={"depth": n}, server={"port": 1300 + n}, models={
                    "a": small("acd"[n % 3]), "b": small("b", concurrency=1 + n % 4),
                },
            )
        )  # fmt: skip
        rig.run(0.05)
    rig.run(60)
    assert rig.loop.gate.generation == 21
    assert rig.running == ["b:./small-b"]
    assert rig.answers == "b:./small-b"
    assert rig.world.table.depth == 19
    assert [port for _, port in rig.world.listeners] == [1319]
    assert rig.engine("b").limits.concurrency == 4
    assert rig.condition("Synced").status == "True"
    rig.clean()


def test_an_edit_that_does_not_concern_a_model_does_not_touch_it() -> None:
    rig = Rig(spec("a", a=small(), b=small("b", residency="loaded"), c=small("c")))
    rig.run(20)
    stay = {rig.engine("a").id, rig.engine("b").id}
    edits = [
        lambda s: s["models"].update(d=small("d", residency="loaded")),
        lambda s: s["models"].pop("d"),
        lambda s: s["models"].pop("c"),
        lambda s: s.update(queue={"timeout": "2m"}, swap={"strategy": "drain_first"}),
        lambda s: s["server"].update(port=1300),
        lambda s: s["models"]["b"].update(aliases=["other"]),
        lambda s: s.update(memory={"warning": "80%"}),
    ]
    for edit in edits:
        rig.edit(edit)
        rig.run(20)
    assert {e.id for e in rig.world.live()} == stay
    rig.clean()


def test_a_bad_edit_keeps_the_good_state_and_says_where_it_is_wrong() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    mark = rig.mark()
    rig.write(b"version: 1\nactive: a\nmodels:\n  a: {sauce: ./small-a}\n")
    rig.run(20)
    assert rig.since(mark) == []
    assert (rig.condition("ConfigAccepted").status, rig.condition("Synced").status) == ("False", "False")
    assert "sauce" in rig.condition("ConfigAccepted").message
    assert rig.condition("Ready").status == "True"
    assert rig.loop.gate.generation == 1
    assert len(rig.events(EventType.SPEC_REJECTED)) == 1
    rig.write(rig.spec)
    rig.run(5)
    assert rig.loop.summary == "Ready"
    assert rig.loop.gate.generation == 1


def test_a_file_that_vanishes_keeps_the_good_state() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    mark = rig.mark()
    rig.remove()
    rig.run(20)
    assert rig.since(mark) == []
    assert rig.condition("SourceReady").status == "False"
    assert rig.condition("Synced").status == "False"
    rig.write(rig.spec)
    rig.run(5)
    assert rig.loop.summary == "Ready"
    rig.clean()


def test_a_comment_is_no_new_generation() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    assert rig.text is not None
    rig.write(rig.text + b"# a word\n")
    rig.run(5)
    assert rig.loop.gate.generation == 1
    assert len(rig.events(EventType.SPEC_UNCHANGED)) == 1
    assert rig.loop.good is rig.loop.gate.accepted
    assert rig.store.good == 1


def test_without_any_valid_file_it_listens_and_says_so() -> None:
    rig = Rig()
    rig.run(20)
    assert rig.loop.summary == "NotReady"
    assert rig.condition("Ready").reason == "NoValidSpec"
    assert rig.condition("ConfigAccepted").status == "False"
    assert [port for _, port in rig.world.listeners] == [1234]
    rig.write(spec("a", a=small()))
    rig.run(20)
    assert rig.loop.summary == "Ready"
    rig.clean()


def test_a_restart_with_a_broken_file_comes_back_with_the_same_state_and_number() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(20)
    rig.write(b"models: [")
    rig.restart()
    rig.run(20)
    assert rig.answers == "a:./small-b"
    assert rig.condition("ConfigAccepted").status == "False"
    rig.write(spec("a", a=small("c")))
    rig.run(20)
    assert rig.loop.gate.generation == 3
    assert rig.answers == "a:./small-c"
    rig.clean()


def test_state_path_asks_for_a_restart() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.edit(lambda s: s.update(state={"path": "/elsewhere"}))
    rig.run(5)
    assert rig.condition("Synced").reason == "RestartRequired"
    rig.restart()
    rig.run(20)
    assert rig.condition("Synced").status == "True"


def test_a_first_valid_file_that_names_another_state_path_asks_for_a_restart_too() -> None:
    rig = Rig()
    rig.run(5)
    rig.write({**spec("a", a=small()), "state": {"path": "/elsewhere"}})
    rig.run(20)
    assert rig.condition("Synced").reason == "RestartRequired"


def test_the_last_known_good_is_the_newest_that_was_ready_and_synced() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.world.sources["./small-b"].fate = "fails_for_ever"
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(20)
    assert rig.loop.good is not None
    assert rig.loop.good.generation == 1
    rig.edit(lambda s: s["models"].update(a=small("c")))
    rig.run(20)
    assert rig.loop.good.generation == 3
    store = rig.store
    assert isinstance(store, MemoryStore)
    assert store.good == 3
    assert rig.events(EventType.APPLIED) == ["generation 1 is Ready", "generation 3 is Ready"]
