"""Frames of the page: who gets what, and what it costs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from appliance.dashboard.live import Live
from appliance.dashboard.render import PARTS
from appliance.dashboard.view import View, view
from tests.dashboard.test_view import NOW, condition, document

pytestmark = pytest.mark.anyio


class Made:
    """A page whose clock and status are ours. count: of renderings."""

    def __init__(self) -> None:
        self.status = document()
        self.now = 0.0
        self.count = 0
        self.live = Live(self._view, clock=lambda: self.now)

    def _view(self) -> View:
        self.count += 1
        return view(self.status, (), NOW + self.now)

    def second(self) -> None:
        self.now += 1.0
        self.live.tick()


async def frame(frames: AsyncIterator[bytes]) -> dict[str, Any]:
    told = await anext(frames)
    assert told.startswith(b"event: page\ndata: {")
    assert told.endswith(b"}\n\n")
    found: dict[str, Any] = json.loads(told.split(b"data: ", 1)[1])
    return found


async def test_the_first_frame_is_whole_and_the_next_has_what_differs() -> None:
    made = Made()
    frames = made.live.follow()
    first = await frame(frames)
    assert tuple(first["parts"]) == PARTS
    assert first["build"]
    assert (first["title"], first["summary"]) == ("studio-01: Ready", "Ready")
    made.second()
    beat = await frame(frames)
    assert (beat["parts"], beat["at"]) == ({}, NOW + 1)  # it says that it is there
    assert "build" not in beat
    made.status["conditions"] = [condition("Degraded", "True", "hot")]
    made.second()
    assert set((await frame(frames))["parts"]) == {"attention", "conditions"}
    made.status["conditions"] = [condition("Degraded", "False")]
    made.second()
    assert (await frame(frames))["parts"]["attention"] == ""


async def test_any_number_of_readers_is_one_rendering_and_the_same_bytes() -> None:
    made = Made()
    readers = [made.live.follow() for _ in range(50)]
    whole = [await anext(one) for one in readers]
    assert made.count == 1
    assert len({id(one) for one in whole}) == 1
    made.second()
    assert len({id(await anext(one)) for one in readers}) == 1
    assert made.count == 2


async def test_a_slow_reader_gets_a_whole_frame_and_holds_nothing_up() -> None:
    made = Made()
    quick, slow = made.live.follow(), made.live.follow()
    await frame(quick)
    await frame(slow)
    for _ in range(3):
        made.second()
        assert "build" not in await frame(quick)
    assert tuple((await frame(slow))["parts"]) == PARTS  # not three frames, one
    made.second()
    assert "build" not in await frame(slow)


async def test_nothing_is_rendered_while_nobody_looks() -> None:
    made = Made()
    frames = made.live.follow()
    await frame(frames)
    made.second()
    assert made.count == 2
    await frames.aclose()  # type: ignore[attr-defined]
    assert made.live.followers == 0
    for _ in range(10):
        made.second()
    assert made.count == 2


async def test_the_page_is_as_fresh_as_a_second_and_has_a_tag() -> None:
    made = Made()
    body, tag = made.live.page()
    assert made.live.page() == (body, tag)
    made.now += 0.9
    assert made.live.page()[1] == tag
    made.now += 0.2
    made.status["generation"] = 4
    assert made.live.page()[1] != tag
    assert made.count == 2


async def test_who_comes_late_sees_what_is_now() -> None:
    made = Made()
    made.live.page()
    made.now += 60
    made.status["name"] = "studio-02"
    first = await frame(made.live.follow())
    assert first["title"] == "studio-02: Ready"
    assert first["at"] == NOW + 60
