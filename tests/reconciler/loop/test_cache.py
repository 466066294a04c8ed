"""The prompt cache borrows memory, and gives it back before anything else needs it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from reconciler.actions import Configure, Drain, Spawn
from reconciler.cache_ready import cache_ready
from reconciler.events import EventType
from reconciler.observed import CacheObs, EngineState, Observed, WarmupObs
from reconciler.spec import Cache
from reconciler.strain import Strain
from reconciler.watch import changes
from tests.reconciler.loop.models import GIB, MIB
from tests.reconciler.loop.rig import Rig, large, small, spec

EVERYTHING = 1000 * GIB


def filled(document: dict[str, Any], room: float) -> Rig:
    """All that runs holds as many prompts as it may."""
    rig = Rig(document, room=room)
    rig.run(20)
    for engine in rig.world.live():
        engine.keeps = EVERYTHING
    rig.run(20)
    rig.clean()
    return rig


def test_a_model_that_fits_beside_an_empty_cache_fits_beside_a_full_one() -> None:
    """Without the loan the newcomer's 1.7 GiB would not fit next to what is in use."""
    rig = filled({**spec("a", a=small(), b=small("b")), "cache": {"memory": "100%"}}, room=4.0)
    old = rig.engine("a")
    assert old.cached > GIB
    assert old.used + 1.7 * GIB > 4.0 * GIB
    mark = rig.mark()
    rig.edit(lambda s: s.update(active="b"))
    rig.run(20)
    assert rig.answers == "b:./small-b"
    kinds = [a.kind for a in rig.since(mark)]
    assert kinds.index("configure") < kinds.index("load") < kinds.index("drain")
    assert [a.mark for a in rig.since(mark) if isinstance(a, Drain)] == ["+/-"]
    rig.clean()  # the world looks whether there was room when the load began


def test_where_the_machine_has_little_free_caches_give_way_for_as_long_as_it_loads() -> None:
    rig = filled(
        {**spec("a", a=small(), b=small("b")), "memory": {"budget": "9GiB"}, "cache": {"memory": "2GiB"}},
        room=6.0,
    )
    world, old = rig.world, rig.engine("a")
    assert old.cached == 2 * GIB
    world.hog = int(world.memory_gib * GIB) - old.used - GIB  # 1 GiB is free, and 1.7 are needed
    rig.run(1)
    assert old.cached == 2 * GIB
    mark = rig.mark()
    rig.edit(lambda s: s["models"]["b"].update(residency="loaded"))
    rig.run(1)
    assert [a.model for a in rig.since(mark) if isinstance(a, Spawn)] == ["b"]
    assert 0 < old.cached < 2 * GIB
    assert world.hog + sum(e.used for e in world.live("a")) + 1.7 * GIB <= world.memory_gib * GIB
    rig.run(20)
    assert rig.answer("b") == "b:./small-b"
    assert old.cached == GIB  # an even share again
    rig.clean()


def test_what_is_lent_is_room_for_nobody_who_needs_more_than_that() -> None:
    rig = filled({**spec("a", a=small(), b=large()), "cache": {"memory": "100%"}}, room=6.0)
    rig.edit(lambda s: s["models"]["b"].update(residency="loaded"))
    rig.run(20)
    assert rig.answer("b") is None
    assert rig.condition("Synced").reason == "InsufficientMemory"
    rig.clean()


def test_engines_share_evenly_and_each_stays_within_its_allowance() -> None:
    models = {name: small(name, residency="loaded") for name in "ab"}
    rig = filled({**spec("a", **models), "cache": {"memory": "1GiB"}}, room=10.0)
    assert {e.limits.cache_memory_bytes for e in rig.world.live()} == {GIB // 2}
    rig.edit(lambda s: s.update(cache={"memory": "100%"}))
    rig.run(5)
    for engine in rig.world.live():
        limits = engine.limits
        assert GIB < limits.cache_memory_bytes < limits.memory_bytes - limits.workspace_bytes - GIB
    assert rig.condition("MemoryPressure").reason == "Normal"
    rig.clean()


def test_cache_memory_and_disk_change_in_place() -> None:
    rig = filled({**spec("a", a=small()), "cache": {"memory": "1GiB", "disk": "5GiB"}}, room=10.0)
    engine, mark = rig.engine("a"), rig.mark()
    assert (engine.limits.cache_memory_bytes, engine.limits.cache_disk_bytes) == (GIB, 5 * GIB)
    rig.edit(lambda s: s.update(cache={"memory": "256MiB", "disk": "0B"}))
    rig.run(5)
    (action,) = rig.since(mark)
    assert isinstance(action, Configure)
    assert action.reason == "cache memory 1.0 GiB -> 256 MiB, cache disk 5.0 GiB -> 0 MiB"
    assert (engine.limits.cache_memory_bytes, engine.limits.cache_disk_bytes) == (256 * MIB, 0)


def test_drop_caches_empties_it_and_undoing_that_step_fills_it_again() -> None:
    rig = filled({**spec("a", a=small()), "cache": {"memory": "1GiB"}}, room=6.0)
    engine = rig.engine("a")
    assert engine.cached == GIB
    rig.world.system = ("warning", "the system says so")
    rig.run(1)
    assert rig.loop.strain.steps == ("drop_caches",)
    assert engine.cached == 0
    assert rig.condition("CacheReady").reason == "MemoryGivenUp"
    rig.world.system = ("normal", "")
    rig.run(120)
    assert rig.loop.strain.steps == ()
    assert engine.cached == GIB
    rig.clean()


def test_an_engine_that_still_answers_while_it_leaves_gives_its_cache_back() -> None:
    rig = filled({**spec("a", a=small(), b=small("b")), "cache": {"memory": "2GiB"}}, room=10.0)
    old = rig.engine("a")
    rig.world.request(seconds=30.0)
    rig.edit(lambda s: s.update(active="b"))
    rig.run(10)
    assert old.state is EngineState.DRAINING
    assert old.cached == old.limits.cache_memory_bytes == 0
    rig.run(40)
    assert rig.running == ["b:./small-b"]
    rig.clean()


@pytest.mark.parametrize("residency", ["loaded", "on_demand"])
def test_an_engine_whose_files_have_gone_gives_its_cache_back_too(residency: str) -> None:
    """Nothing can be computed for it any more, but that much is known."""
    document = spec("a", a=small(), b=small("b", residency=residency), c=small("c"))
    rig = Rig({**document, "cache": {"memory": "3GiB"}}, room=9.0)
    rig.run(20)
    rig.world.request("b")
    rig.run(20)
    old = rig.engine("b")
    old.keeps = EVERYTHING
    rig.run(5)
    before = old.cached
    rig.world.sources["./small-b"].files = rig.world.sources["org/hub-a"].files
    rig.edit(lambda s: s["models"]["c"].update(residency="loaded"))
    rig.run(20)
    assert 0 < old.cached < before
    rig.clean()


# --- what is told of it ------------------------------------------------------------------------------


def ready(rig: Rig) -> tuple[str, str, str]:
    rig.run(6)
    found = rig.condition("CacheReady")
    return found.status, found.reason, found.message


def test_the_condition_says_what_works() -> None:
    rig = Rig(spec("a", a=small()), room=6.0)
    rig.run(1)
    assert rig.condition("CacheReady").reason == "NoEngine"
    rig.run(20)
    assert ready(rig) == ("True", "Working", "")
    engine = rig.engine("a")
    engine.disk = CacheObs()
    assert ready(rig) == ("Unknown", "Opening", f"{engine.id} has not opened its disk cache yet")
    engine.disk = CacheObs(disk="failed", why="no space left on device")
    status, reason, message = ready(rig)
    assert (status, reason) == ("False", "DiskFailed")
    assert message.startswith(f"{engine.id} goes on without the disk: no space left on device;")
    assert rig.loop.summary == "Ready"
    assert any("CacheReady Unknown -> False" in told for told in rig.events(EventType.CONDITION))
    rig.edit(lambda s: s.update(cache={"disk": "0B"}))
    assert ready(rig) == ("True", "Working", "")
    rig.edit(lambda s: s.update(cache={"memory": "0%", "disk": "0B"}))
    assert ready(rig) == ("True", "Disabled", "cache.memory and cache.disk are both off")


def test_a_folder_that_cannot_be_used_is_told_before_any_engine_runs() -> None:
    rig = Rig({"version": 1, "active": None, "models": {}})
    rig.run(5)
    assert rig.loop.seen is not None
    found = cache_ready(rig.loop.force.file, replace(rig.loop.seen, cache_problem="it is a file"), Strain())
    assert found == ("False", "PathUnusable", "it is a file")
    off = rig.loop.force.file.model_copy(update={"cache": Cache(disk=0)})
    assert cache_ready(off, replace(rig.loop.seen, cache_problem="it is a file"), Strain())[0] == "Unknown"


def test_each_template_that_fails_is_told_once() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    seen, plan = rig.loop.seen, rig.loop.plan
    assert seen is not None
    assert plan is not None

    def at(done: int, *failed: tuple[str, str]) -> Observed:
        warmup = WarmupObs(("one", "two", "three"), done, True, failed)
        return replace(seen, engines=tuple(replace(e, warmup=warmup) for e in seen.engines))

    long, refused = ("one", "too long"), ("three", "refused")
    steps = [at(0), at(1, long), at(2, long), at(3, long, refused)]
    told = [
        [(kind, message) for kind, message, _ in changes(before, plan, after, plan)]
        for before, after in itertools.pairwise(steps)
    ]
    assert told == [
        [(EventType.WARMUP_FAILED, "a-1: warmup_templates.one: too long")],
        [],
        [(EventType.WARMUP_FAILED, "a-1: warmup_templates.three: refused")],
    ]
