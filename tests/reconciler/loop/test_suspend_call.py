"""`lmx suspend`: like `suspend: true`, as an admin call that survives restarts and ends when told."""

from __future__ import annotations

from pathlib import Path

from reconciler.events import EventType
from reconciler.gate import Accepted
from reconciler.history import KEPT_GENERATIONS, History
from reconciler.recall import recall
from tests.reconciler.loop.rig import Rig, parse, small, spec


def suspended() -> Rig:
    rig = Rig(spec("a", a=small(), b=small("b")))
    rig.run(20)
    rig.loop.force.suspend("ada")
    rig.run(5)
    return rig


def test_nothing_waits_until_an_edit_comes_and_then_it_shows() -> None:
    rig = suspended()
    assert rig.loop.summary == "Suspended"
    assert rig.condition("Suspended").reason == "AdminCall"
    assert rig.condition("Suspended").message.startswith("suspended by ada: ")
    assert rig.condition("Synced").status == "True"
    mark = rig.mark()
    rig.edit(lambda s: (s.update(active="b"), s["server"].update(port=1300)))
    rig.run(60)
    assert rig.since(mark) == []
    assert rig.answers == "a:./small-a"
    found = rig.condition("Synced")
    assert (found.status, found.reason) == ("False", "Suspended")
    assert found.message.startswith("generation 2 waits: ")
    rig.edit(lambda s: s["server"].update(port=1301))
    rig.run(5)
    assert rig.loop.force.clear(None, ("suspend",)) == 1
    rig.run(30)
    assert rig.answers == "b:./small-b"
    assert [port for (_, port) in rig.world.listeners] == [1301]
    assert rig.loop.summary == "Ready"
    assert rig.events(EventType.OVERRIDE_CLEARED) == ["suspend: cleared"]
    rig.clean()


def test_it_survives_a_restart_with_what_was_in_force() -> None:
    rig = suspended()
    rig.edit(lambda s: s.update(active="b"))
    rig.run(5)
    rig.edit(lambda s: s["models"].pop("a"))
    rig.restart()
    rig.run(20)
    assert rig.answers == "a:./small-a"
    assert rig.loop.summary == "Suspended"
    assert rig.condition("Synced").reason == "Suspended"
    rig.clean()


def test_a_crashed_engine_returns_and_an_edit_taken_back_leaves_nothing_waiting() -> None:
    rig = suspended()
    rig.edit(lambda s: s["models"].update(a=small("c")))
    rig.world.crash(rig.engine("a").id)
    rig.run(20)
    assert rig.answers == "a:./small-a"
    rig.edit(lambda s: s["models"].update(a=small()))
    rig.run(20)
    assert rig.condition("Synced").status == "True"
    rig.clean()


def test_the_files_own_word_combines_with_it() -> None:
    rig = suspended()
    rig.edit(lambda s: s.update(suspend=True, active="b"))
    rig.run(5)
    assert rig.condition("Suspended").reason == "SpecSays"
    rig.loop.force.clear(None, ("suspend",))
    rig.run(20)
    assert (rig.answers, rig.loop.summary) == ("a:./small-a", "Suspended")
    rig.edit(lambda s: s.update(suspend=False))
    rig.run(20)
    assert (rig.answers, rig.loop.summary) == ("b:./small-b", "Ready")
    rig.clean()


def test_it_may_be_laid_over_a_suspended_file() -> None:
    rig = Rig(spec("a", a=small(), b=small("b")))
    rig.run(20)
    rig.edit(lambda s: s.update(suspend=True, active="b"))
    rig.run(5)
    rig.loop.force.suspend("ada")
    rig.edit(lambda s: s.update(suspend=False))
    rig.run(20)
    assert (rig.answers, rig.loop.summary) == ("a:./small-a", "Suspended")
    rig.restart()
    rig.run(20)
    assert rig.answers == "a:./small-a"
    rig.loop.force.clear(None, ("suspend",))
    rig.run(20)
    assert rig.answers == "b:./small-b"


def test_other_admin_calls_are_judged_by_what_is_in_force_when_it_ends() -> None:
    rig = suspended()
    rig.loop.force.override("b", "load")
    rig.run(20)
    rig.edit(lambda s: s["models"]["b"].update(priority=7))
    rig.run(20)
    assert [o.kind for o in rig.loop.force.overrides] == ["suspend", "load"]
    rig.loop.force.clear(None, ("suspend",))
    rig.run(20)
    assert rig.loop.force.overrides == ()
    assert rig.running == ["a:./small-a"]
    rig.clean()


def test_a_file_that_denies_admin_calls_ends_those_that_are_left() -> None:
    rig = Rig(spec("a", a=small(), b=small("b")))
    rig.run(20)
    rig.loop.force.override("b", "load")
    rig.loop.force.drain(rig.loop._wall() + 60)
    rig.run(20)
    rig.edit(lambda s: s["server"].update(overrides="deny"))
    rig.run(20)
    assert rig.loop.force.overrides == ()
    assert rig.running == ["a:./small-a"]
    assert rig.condition("Ready").status == "True"
    rig.clean()


def test_what_is_in_force_is_not_pruned_however_many_edits_wait(tmp_path: Path) -> None:
    history = History(tmp_path / "history.db")
    texts = [
        f"version: 1\nactive: null\nmodels: {{}}\nname: n{n}\n".encode() for n in range(KEPT_GENERATIONS + 50)
    ]
    rig = Rig(spec("a", a=small()), store=_Stored(history))
    for number, text in enumerate(texts, 1):
        found = parse(text)
        history.accepted(Accepted(found.spec, found.digest, number, "", text), 0.0)
        if number == 3:
            rig.loop.force._held = Accepted(found.spec, found.digest, number, "", text)
            rig.loop.force._laid.suspend(found.digest, "ada")
    history.prune(0.0)
    held = recall(history, parse, 0.0).held
    assert held is not None
    assert (held.generation, held.spec.name) == (3, "n2")
    history.close()


class _Stored:
    """The real history as the loop's store."""

    def __init__(self, history: History) -> None:
        self._history = history

    def __getattr__(self, name: str) -> object:
        return getattr(self._history, name)

    def recall(self, offset: float) -> object:
        return recall(self._history, parse, offset)
