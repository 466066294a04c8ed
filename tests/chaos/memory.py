"""What is measured of an appliance that is short of memory: how soon it gives way, and what it holds.

All of it from outside: our own readings of its processes, and its events.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from dataclasses import dataclass
from typing import Any

import psutil

from appliance.host import platform
from tests.chaos.appliance import MIB, Appliance
from tests.chaos.faults.machine import Hog
from tests.e2e.http_stream import post

LOOK_S = 0.02
PATIENCE_S = 60.0


def held(appliance: Appliance) -> int:
    """Bytes of parent and engines, as LMX itself counts them."""
    with contextlib.suppress(psutil.Error):
        family = [appliance.parent(), *appliance.engines()]
        return sum(platform().footprint(process.pid) for process in family)
    return 0


def run_away(appliance: Appliance, mib_per_s: int, kind: str, critical_bytes: int) -> float:
    """One engine allocates without end. Seconds from passing critical until it is gone, by our own look."""
    (engine,) = appliance.engines()
    appliance.control("engine.json", {"pid": engine.pid, "allocate": mib_per_s, "kind": kind})
    passed = None
    end = time.monotonic() + PATIENCE_S
    try:
        while psutil.pid_exists(engine.pid) and engine.status() != psutil.STATUS_ZOMBIE:
            now = time.monotonic()
            assert now < end, f"it lived on with {held(appliance) / MIB:.0f} MiB\n{appliance.tail()}"
            if passed is None and held(appliance) >= critical_bytes:
                passed = now
            time.sleep(LOOK_S)
    except psutil.NoSuchProcess:
        pass  # between two looks
    appliance.control("engine.json", None)
    assert passed is not None, f"it was ended before it had passed critical\n{appliance.tail()}"
    return time.monotonic() - passed


async def first_step(appliance: Appliance, mib: int) -> float:
    """Another program takes memory. Seconds from when it has it until the first step is taken."""
    before = max((e["id"] for e in appliance.status()["events"]), default=0)
    hog = Hog(0.0, mib)
    await hog.begin(appliance)
    assert hog.process is not None
    assert hog.process.stdout is not None
    try:
        await asyncio.to_thread(hog.process.stdout.readline)
        began = time.time()
        taken = await asyncio.to_thread(_event, appliance, "StepTaken", before)
        return float(taken["at"]) - began
    finally:
        await hog.end(appliance)


def _event(appliance: Appliance, kind: str, after: int) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def come(status: dict[str, Any]) -> bool:
        found[:] = [e for e in status["events"] if e["type"] == kind and e["id"] > after]
        return bool(found)

    appliance.until(come)
    return found[0]


@dataclass
class Held:
    """most_bytes: the largest of all looks. outcomes: of the requests, by code."""

    most_bytes: int
    looks: int
    outcomes: dict[str, int]


async def crowd(appliance: Appliance, clients: int, rounds: int) -> Held:
    """Many clients with prompts of all lengths at once; what is held is looked at all the while."""
    outcomes: dict[str, int] = {}
    most, looks = 0, 0
    done = asyncio.Event()

    async def client(number: int) -> None:
        draw = random.Random(number)
        for _ in range(rounds):
            words = " ".join(
                draw.choices(("memory", "swap", "model", "file"), k=draw.choice((5, 200, 600, 1200)))
            )
            body = {"messages": [{"role": "user", "content": words}], "max_tokens": draw.choice((8, 128))}
            answer = await post(appliance.port, "/v1/chat/completions", {**body, "stream": True})
            code = "ok" if answer.failure is None else _code(answer.body) or str(answer.failure)
            outcomes[code] = outcomes.get(code, 0) + 1

    async def look() -> None:
        nonlocal most, looks
        while not done.is_set():
            most = max(most, await asyncio.to_thread(held, appliance))
            looks += 1
            await asyncio.sleep(0.1)

    looking = asyncio.create_task(look())
    await asyncio.gather(*(client(number) for number in range(clients)))
    done.set()
    await looking
    return Held(most, looks, outcomes)


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""
