"""The loop itself: it survives bugs, full disks and old news, and beats while it lives."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from reconciler import loop as loop_module
from reconciler.events import EventType
from reconciler.loop import Loop
from reconciler.observed import Observed
from tests.reconciler.loop.rig import BARE, MemoryStore, Rig, large, medium, parse, small, spec
from tests.reconciler.loop.world import World


def test_a_bug_in_planning_is_reported_and_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    real = loop_module.plan

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(loop_module, "plan", broken)
    rig.world.crash(rig.engine("a").id)
    rig.run(10)
    assert len(rig.errors) > 5
    assert "ZeroDivisionError: a bug" in rig.events(EventType.LOOP_ERROR)
    monkeypatch.setattr(loop_module, "plan", real)
    rig.run(20)
    assert rig.answers == "a:./small-a"


@pytest.mark.anyio
async def test_run_goes_on_after_a_pass_that_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The real `run`, with the pause after an error taken out."""
    monkeypatch.setattr(loop_module, "ERROR_PAUSE_S", 0.001)
    monkeypatch.setattr(loop_module, "IDLE_LOOK_S", 0.001)
    world, store, stop = World(), MemoryStore(), asyncio.Event()
    text = Rig(spec(None))._read()
    loop = Loop(world, store, lambda: text, parse, wall=lambda: 0.0, fallback=BARE)
    observe, fail = world.observe, [True, True]

    async def flaky(*args: Any) -> Observed:
        if fail:
            fail.pop()
            raise OSError("the disk does not answer")
        if loop.passes > 12:
            stop.set()
        return await observe(*args)

    monkeypatch.setattr(world, "observe", flaky)
    await loop.run(stop)
    assert loop.errors == 2
    assert [e.message for e in store.list if e.type is EventType.LOOP_ERROR] == [
        "OSError: the disk does not answer"
    ] * 2
    assert [x.state for x in world.listeners.values()] == ["open"]


@pytest.mark.anyio
async def test_run_wakes_for_a_poke_and_ends_when_told() -> None:
    world, stop = World(), asyncio.Event()
    text = Rig(spec(None))._read()
    passed = asyncio.Event()
    loop = Loop(
        world, MemoryStore(), lambda: text, parse, wall=lambda: 0.0, fallback=BARE, on_pass=passed.set
    )
    task = asyncio.create_task(loop.run(stop))
    for _ in range(10):  # far fewer than idle looks would allow in the time of this test
        passed.clear()
        loop.poke()
        loop.poke()
        await passed.wait()
    stop.set()
    await task
    assert loop.errors == 0


def test_a_store_that_fails_is_reported_and_nothing_is_forgotten() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.store.down = True
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.run(5)
    assert rig.errors
    rig.store.down = False
    rig.run(20)
    assert rig.answers == "a:./small-b"
    assert set(rig.store.generations) == {1, 2}
    assert rig.world.violations == []


def test_an_observation_older_than_the_last_step_is_not_acted_on() -> None:
    rig = Rig(spec("a", a=small()), room=3.0)
    rig.run(20)
    rig.edit(lambda s: s["models"].update(b=small("b")))
    for back in (1, 2, 3, 4, 5, 6) * 3:
        rig.edit(lambda s: s.update(active="b" if s["active"] == "a" else "a"))
        rig.world.stale = [back]
        rig.step()
        rig.world.stale = [back]
        rig.step()
        rig.run(0.3)
    rig.run(30)
    assert rig.answers == f"{rig.spec['active']}:./small-{rig.spec['active']}"
    rig.clean()


def test_old_news_is_looked_past_soon() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(20)
    rig.edit(lambda s: s["models"].update(a=small("b")))
    rig.step()
    rig.world.stale = [3]
    assert rig.step() is False
    assert rig.loop._pause(False) < 0.1


def test_a_step_that_shows_no_effect_is_not_repeated_in_a_frenzy(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(spec("a", a=small()))
    monkeypatch.setattr(rig.world, "_bind", lambda *_: None)
    pauses = [rig.loop._pause(rig.step()) for _ in range(12)]
    assert pauses[:3] == [0.0] * 3
    assert pauses[-1] >= 0.5
    assert len(rig.events(EventType.ACTION)) == 1


def test_the_loop_beats_while_idle() -> None:
    rig = Rig(spec("a", a=small()))
    rig.run(60)
    before = rig.loop.last_beat
    rig.run(30)
    assert rig.loop.last_beat - before > 25


def test_a_pass_with_five_models_and_three_engines_is_cheap() -> None:
    rig = Rig(
        spec(
            "a",
            a=small(),
            b=small("b", residency="loaded"),
            c=small("c", residency="on_demand"),
            d=medium(),
            e=large(),
        )
    )
    rig.run(10)
    rig.world.request("c", 20)
    rig.run(10)
    assert len(rig.running) == 3
    spent = []
    for _ in range(50):
        began = time.process_time()
        rig.step()
        spent.append(time.process_time() - began)
    assert sorted(spent)[25] < 0.003, "median CPU seconds of a pass"
