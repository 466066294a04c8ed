"""The parent's side: one child per repo and revision, joined, cancelled, watched."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from threading import Event

import psutil
import pytest

from appliance.hub import Download, Downloads, find
from appliance.hub.cache import Wanted
from tests.hub import models
from tests.hub.fetching import DEADLINE
from tests.hub.hubserver import Hub

pytestmark = pytest.mark.anyio
Environment = Callable[..., dict[str, str]]


class Watched(Downloads):
    """Downloads whose changes can be waited for."""

    def __init__(self, cache: Path, environment: dict[str, str]) -> None:
        self._changed = asyncio.Event()
        super().__init__(cache, self._changed.set, environment)

    async def until(self, holds: Callable[[dict[str, Download]], bool]) -> dict[str, Download]:
        async with asyncio.timeout(DEADLINE):
            while not holds(self.observe()):
                self._changed.clear()
                await self._changed.wait()
        return self.observe()


@pytest.fixture
async def downloads(cache: Path, environment: Environment) -> AsyncIterator[Watched]:
    made = Watched(cache, environment())
    yield made
    await made.close()
    assert children() == []


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "appliance.hub.fetch" in " ".join(child.cmdline())
    ]


async def half_way(hub: Hub) -> None:
    assert await asyncio.to_thread(hub.half_way.wait, DEADLINE)


async def test_a_download_is_seen_from_start_to_end(hub: Hub, downloads: Watched, cache: Path) -> None:
    total = sum(len(data) for data in hub.add("org/m", models.model(kib=512)).files.values())
    hub.gate = Event()
    downloads.start("k", "org/m")
    assert downloads.observe()["k"].state == "downloading"
    await half_way(hub)
    seen = (await downloads.until(lambda seen: seen["k"].done > 0))["k"]
    assert (seen.total, seen.state, seen.error) == (total, "downloading", None)
    hub.gate.set()
    done = await downloads.wait("k")
    assert (done.done, done.total, done.state, done.error) == (total, total, "done", None)
    assert find("org/m", cache=cache).state == "present"


async def test_two_keys_share_one_download(hub: Hub, downloads: Watched) -> None:
    hub.add("org/m", models.model())
    downloads.start("a", "org/m")
    downloads.start("b", "org/m")
    assert (await downloads.wait("a")).state == (await downloads.wait("b")).state == "done"
    assert len([seen for seen in hub.seen if seen.path.startswith("/api/models/")]) == 1


async def test_a_key_may_want_several_repos(hub: Hub, downloads: Watched) -> None:
    hub.add("org/m", models.model())
    hub.add("org/lora", {"adapter_config.json": b"{}", "adapters.safetensors": models.weights()})
    downloads.start("k", "org/m")
    downloads.start("k", "org/lora")
    done = await downloads.wait("k")
    sizes = [len(data) for repo in hub.repos.values() for data in repo.files.values()]
    assert (done.state, done.total) == ("done", sum(sizes))


async def test_one_of_several_that_fails_is_what_the_key_says(hub: Hub, downloads: Watched) -> None:
    hub.add("org/m", models.model())
    downloads.start("k", "org/m")
    downloads.start("k", "org/nothing")
    done = await downloads.wait("k")
    assert done.state == "failed"
    assert done.error is not None
    assert (done.error.code, done.error.permanent) == ("not_found", True)


async def test_cancelled_and_started_again_it_goes_on(hub: Hub, downloads: Watched, cache: Path) -> None:
    hub.add("org/m", models.model(kib=1024))
    hub.gate = Event()
    downloads.start("k", "org/m")
    await half_way(hub)
    await downloads.until(lambda seen: seen["k"].done > 100_000)
    hub.half_way.clear()
    downloads.cancel("k")
    assert downloads.observe() == {}
    downloads.start("k", "org/m")  # at once: the old process may still be ending
    await half_way(hub)  # the new one's request: with the gate open, the old one might yet have got the rest
    hub.gate.set()
    done = await downloads.wait("k")
    assert done.state == "done"
    assert find("org/m", cache=cache).state == "present"
    ranges = [seen.range for seen in hub.seen if seen.path.startswith("/cdn/")]
    assert [asked is None for asked in ranges] == [True, False]


async def test_a_download_that_somebody_else_wants_goes_on_after_a_cancel(
    hub: Hub, downloads: Watched
) -> None:
    hub.add("org/m", models.model(kib=512))
    hub.gate = Event()
    downloads.start("a", "org/m")
    downloads.start("b", "org/m")
    await half_way(hub)
    downloads.cancel("a")
    hub.gate.set()
    assert (await downloads.wait("b")).state == "done"


async def test_cancelling_what_was_never_started_changes_nothing(downloads: Watched) -> None:
    downloads.cancel("nothing")
    assert downloads.observe() == {}
    assert (await downloads.wait("nothing")).state == "cancelled"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_process_that_dies_is_an_error_with_its_signal(
    hub: Hub, downloads: Watched, number: signal.Signals
) -> None:
    hub.add("org/m", models.model(kib=512))
    hub.gate = Event()
    downloads.start("k", "org/m")
    await half_way(hub)
    os.kill(children()[0].pid, number)
    done = await downloads.wait("k")
    assert done.state == "failed"
    assert done.error is not None
    assert done.error.code == "interrupted"
    assert number.name in done.error.message
    hub.gate.set()
    hub.gate = None
    downloads.start("k", "org/m")
    assert (await downloads.wait("k")).state == "done"


async def test_a_process_that_cannot_run_says_why(hub: Hub, cache: Path, environment: Environment) -> None:
    downloads = Watched(cache, environment(PYTHONHOME="/nowhere"))
    downloads.start("k", "org/m")
    done = await downloads.wait("k")
    assert done.error is not None
    assert done.error.code == "interrupted"
    assert "with status" in done.error.message
    await downloads.close()


async def test_closing_ends_every_child(hub: Hub, downloads: Watched) -> None:
    hub.add("org/m", models.model(kib=512))
    hub.gate = Event()
    downloads.start("k", "org/m")
    await half_way(hub)
    assert len(children()) == 1
    await downloads.close()
    assert children() == []
    assert downloads.observe()["k"].state == "cancelled"


async def test_a_wait_that_is_cancelled_leaves_the_download_alone(hub: Hub, downloads: Watched) -> None:
    hub.add("org/m", models.model(kib=512))
    hub.gate = Event()
    downloads.start("k", "org/m")
    waiter = asyncio.create_task(downloads.wait("k"))
    await half_way(hub)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    hub.gate.set()
    assert (await downloads.wait("k")).state == "done"


LATE = """
import json, signal, sys

def say(**event):
    print(json.dumps(event), flush=True)

def ended(*_):
    say(event="retry", message="last words", failed=6)
    sys.exit(0)

signal.signal(signal.SIGTERM, ended)
say(event="retry", message="HTTP 500", failed=1)
signal.pause()
"""


class Late(Downloads):
    """Its child has something to say of the hub yet when it is asked to end."""

    def _command(self, what: Wanted) -> list[str]:
        return [sys.executable, "-c", LATE]


async def test_what_a_stopped_download_says_of_the_hub_does_not_count() -> None:
    heard: list[str | None] = []
    changed = asyncio.Event()
    downloads = Late(on_change=changed.set, on_hub=lambda _what, why: heard.append(why))
    downloads.start("a", "org/m")
    async with asyncio.timeout(DEADLINE):
        while not heard:
            changed.clear()
            await changed.wait()
    downloads.cancel("a")
    await downloads.close()
    assert heard == ["HTTP 500"]
