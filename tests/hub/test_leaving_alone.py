"""A hub that does not answer is left alone: real downloading processes, a real server that misbehaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from appliance.breakers import Breaker, Breakers
from appliance.fetching import Fetching
from appliance.hub.cache import Wanted
from reconciler.observed import ModelFiles
from tests.hub.hubserver import Hub

pytestmark = pytest.mark.anyio

ABSENT = ModelFiles("absent", message="not downloaded")
LIMIT_S = 30.0
FILES = {"config.json": b'{"model_type": "qwen3"}', "model.safetensors": bytes(range(256)) * 256}


class World:
    def __init__(self, environment: dict[str, str], first: float) -> None:
        self.changed = asyncio.Event()
        self.states: list[str] = []
        self.breakers = Breakers(self._moved, first=first)
        self.fetching = Fetching(self.changed.set, self.breakers, environment=environment, first_pause=0.02)

    def _moved(self, breaker: Breaker) -> None:
        self.states.append(breaker.state)
        self.changed.set()

    def files(self, digest: str) -> ModelFiles:
        return self.fetching.overlay(digest, ABSENT)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def make(
    hub: Hub, environment: Callable[..., dict[str, str]]
) -> AsyncIterator[Callable[[float], World]]:
    worlds: list[World] = []

    def made(first: float = 60.0) -> World:
        worlds.append(World(environment(), first))
        return worlds[-1]

    yield made
    for world in worlds:
        await world.fetching.close()


def fetched(folder: Path, repo: str) -> bool:
    place = folder / "home" / "hub" / ("models--" + repo.replace("/", "--")) / "snapshots"
    return any(place.glob("*/model.safetensors"))


@pytest.mark.parametrize("ill", ["error", "garbage"])
async def test_a_hub_that_fails_is_asked_five_times_and_then_no_more(
    hub: Hub, make: Callable[..., World], ill: str
) -> None:
    hub.add("lmx/a", FILES)
    hub.ill = ill
    world = make()
    world.fetching.start("a", [Wanted("lmx/a", None)])
    await world.until(lambda: world.states == ["open"])
    await world.until(lambda: "left alone until" in (world.files("a").message or ""))
    assert world.files("a").state == "downloading"
    asked = len(hub.seen)
    assert asked == 5
    # Another model that comes now hears so at once, without the hub being asked.
    began = time.monotonic()
    world.fetching.start("b", [Wanted("lmx/b", None)])
    assert "left alone until" in (world.files("b").message or "")
    assert time.monotonic() - began < 5.0
    assert len(hub.seen) == asked


async def test_one_download_is_let_through_after_the_pause_and_the_others_follow(
    hub: Hub, make: Callable[..., World], tmp_path: Path
) -> None:
    hub.add("lmx/a", FILES)
    hub.add("lmx/b", FILES)
    hub.ill = "error"
    world = make(0.2)
    world.fetching.start("a", [Wanted("lmx/a", None)])
    world.fetching.start("b", [Wanted("lmx/b", None)])
    await world.until(lambda: world.states.count("open") >= 2)
    assert world.states[:3] == ["open", "half_open", "open"]
    hub.heal()
    await world.until(lambda: fetched(tmp_path, "lmx/a") and fetched(tmp_path, "lmx/b"))
    assert world.states[-1] == "closed"


async def test_a_model_that_does_not_exist_is_no_fault_of_the_hub(
    hub: Hub, make: Callable[..., World]
) -> None:
    world = make()
    for number in range(6):
        world.fetching.start(f"d{number}", [Wanted(f"lmx/none-{number}", None)])
    await world.until(lambda: all(world.files(f"d{n}").state == "broken" for n in range(6)))
    assert world.states == []
    assert world.breakers.views()["hub"].failures == 0


async def test_reconcile_asks_the_hub_at_once(hub: Hub, make: Callable[..., World], tmp_path: Path) -> None:
    hub.add("lmx/a", FILES)
    hub.ill = "error"
    world = make()
    world.fetching.start("a", [Wanted("lmx/a", None)])
    await world.until(lambda: world.states == ["open"])
    hub.heal()
    world.fetching.retry_all()
    await world.until(lambda: fetched(tmp_path, "lmx/a"))
    assert world.states == ["open", "half_open", "closed"]


async def test_an_edit_that_drops_the_model_on_trial_lets_the_next_one_try(
    hub: Hub, make: Callable[..., World], tmp_path: Path
) -> None:
    hub.add("lmx/b", FILES)
    hub.ill = "error"
    world = make()
    world.fetching.start("a", [Wanted("lmx/a", None)])
    world.fetching.start("b", [Wanted("lmx/b", None)])
    await world.until(lambda: world.states == ["open"])
    hub.ill = "hang"
    world.fetching.retry_all()
    await world.until(lambda: world.states == ["open", "half_open"])
    hub.ill = ""
    world.fetching.cancel("a")
    await world.until(lambda: fetched(tmp_path, "lmx/b"))
    assert world.states[-1] == "closed"


async def test_who_asks_at_the_moment_the_hub_is_given_up_gets_the_try(
    hub: Hub, make: Callable[..., World], tmp_path: Path
) -> None:
    hub.add("lmx/b", FILES)
    hub.ill = "error"
    world = make()
    world.fetching.start("a", [Wanted("lmx/a", None)])
    await world.until(lambda: world.states == ["open"])
    hub.heal()
    with world.fetching.hold("b", [Wanted("lmx/b", None)]):
        await world.until(lambda: fetched(tmp_path, "lmx/b"))
    assert world.states[-1] == "closed"
