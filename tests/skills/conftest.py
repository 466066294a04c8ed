"""Real skills in real processes, in a folder of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from appliance.breakers import Breakers
from appliance.skills.messages import Result
from appliance.skills.registry import Skills
from reconciler import spec
from reconciler.events import EventType

LIMIT_S = 60.0  # for any one thing, also on a machine with other work to do


async def until(holds: Callable[[], bool], what: str) -> None:
    """Looked at again and again: what is waited for is another process's doing."""
    try:
        async with asyncio.timeout(LIMIT_S):
            while not holds():  # noqa: ASYNC110 - no event of ours tells
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {LIMIT_S:g} s: {what}") from None


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Workshop:
    """The folder of an lmx.yaml with skills, and what they tell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "home"
        self.state = folder / "state"
        self.folder.mkdir()
        self.environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "WEATHER_KEY": "k1", "SECRET": "s3cret"}
        self.events: list[tuple[EventType, str]] = []
        self.calls: list[tuple[str, str]] = []
        self.breakers = Breakers(lambda _: None)
        self.skills = Skills(
            self.folder,
            self.state,
            self.breakers,
            lambda kind, message, _: self.events.append((kind, message)),
            lambda skill, outcome, _: self.calls.append((skill, outcome)),
            self.environ,
        )

    def write(self, text: str, name: str = "tools.py") -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def apply(self, **forms: dict[str, Any]) -> None:
        self.skills.apply({name: spec.Skill.model_validate(form) for name, form in forms.items()})

    async def call(self, skill: str, tool: str | None = None, /, **arguments: Any) -> Result:
        offers = await self.skills.offers([skill])
        return await self.skills.call(offers[tool or skill], arguments)

    def pids(self, skill: str) -> list[int]:
        return list(self.skills.status()[skill]["pids"])

    async def until_state(self, skill: str, state: str) -> dict[str, Any]:
        await until(lambda: self.skills.states()[skill] == state, f"{skill} is {state}")
        return dict(self.skills.status()[skill])


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    made = Workshop(tmp_path)
    yield made
    await made.skills.close()
    assert not list((made.state / "engines").glob("*"))
    assert not (made.state / "skills").exists()
