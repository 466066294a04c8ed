"""The text in template.file can change without an edit of the spec: then a fresh engine takes over."""

from __future__ import annotations

from dataclasses import replace

from reconciler.actions import Drain
from reconciler.observed import ModelFiles
from tests.reconciler.loop.rig import Rig, small, spec


def serving(room: float = 9.0) -> Rig:
    rig = Rig(spec("a", a=small(), b={**small("b"), "residency": "loaded"}), room=room)
    rig.run(20)
    assert rig.answers == "a:./small-a"
    return rig


def write(rig: Rig, **files: object) -> None:
    """Somebody edits the file, and nobody tells the loop."""
    source = rig.world.sources["./small-a"]
    source.files = replace(source.files, **files)  # type: ignore[arg-type]


def test_another_text_brings_a_fresh_engine_and_the_old_one_answers_until_then() -> None:
    rig = serving()
    old, other = rig.engine("a"), rig.engine("b")
    stream = rig.world.request("a", 30.0)
    mark = rig.mark()
    write(rig, template="new", fingerprint="small-a#1/new")
    rig.run(40)
    assert rig.engine("a").id != old.id
    assert rig.engine("a").template == "new"
    assert rig.engine("b") is other
    assert stream.outcome == "done"
    assert [(a.engine, a.reason) for a in rig.since(mark) if isinstance(a, Drain)] == [
        (old.id, "replaced by a fresh engine: the text of its template.file has changed")
    ]
    assert len(rig.world.spawned("a")) == 2
    rig.clean()


def test_another_text_is_taken_up_where_both_have_no_room() -> None:
    rig = Rig(spec("a", a=small()), room=1.9)
    rig.run(20)
    old = rig.engine("a")
    write(rig, template="new", fingerprint="small-a#1/new")
    rig.run(40)
    assert rig.engine("a").id != old.id
    rig.clean()


def test_a_file_that_is_gone_does_not_touch_the_engine_that_has_read_it() -> None:
    rig = serving()
    old, before = rig.engine("a"), rig.world.sources["./small-a"].files
    rig.world.sources["./small-a"].files = ModelFiles("broken", message="no such file", permanent=True)
    rig.run(60)
    assert rig.engine("a") is old
    assert len(rig.world.spawned("a")) == 1
    rig.world.sources["./small-a"].files = before
    rig.run(60)
    assert rig.engine("a") is old
    rig.clean()


def test_a_text_that_no_engine_loads_with_leaves_the_old_one_answering_until_it_is_mended() -> None:
    rig = serving()
    old = rig.engine("a")
    rig.world.sources["./small-a"].fate = "fails_for_ever"
    write(rig, template="bad", fingerprint="small-a#1/bad")
    rig.run(120)
    assert rig.engine("a") is old
    assert len(rig.world.spawned("a")) == 2
    assert not any(isinstance(a, Drain) for a in rig.world.actions)
    rig.world.sources["./small-a"].fate = "ok"
    write(rig, template="good", fingerprint="small-a#1/good")
    rig.run(60)
    assert rig.engine("a").template == "good"
    rig.clean()
