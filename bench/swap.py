"""How soon an edit is acted on, while sixteen clients stream: from the save to the plan's first step."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import client
from bench.client import percentile
from bench.sides import ROOT, Ours
from bench.speed import Row

EDITS = 20
DEMO, MINI = (ROOT / "examples" / "models" / name for name in ("lmx-demo", "lmx-demo-mini"))
CLIENTS = 16


def run(scratch: Path) -> Iterator[Row]:
    for name, memory in (("beside", {}), ("drain first", {"memory": {"budget": "400MiB"}})):
        place = scratch / name.replace(" ", "-")
        place.mkdir()
        models = {
            "demo": {"source": str(DEMO), "concurrency": 16, "sampling": {"temperature": 0}},
            "mini": {"source": str(MINI), "concurrency": 16, "sampling": {"temperature": 0}},
        }
        ours = Ours(DEMO, place, active="demo", models=models, **memory)
        try:
            yield from _rows(name, asyncio.run(_edits(ours)))
        finally:
            ours.close()


def _rows(name: str, measured: tuple[list[float], list[float], int, list[str]]) -> Iterator[Row]:
    acted, swapped, answers, failures = measured
    yield Row(f"swap {name}: answers during {EDITS} edits", answers, None, unit="answers")
    yield Row(f"swap {name}: failed or cut", len(failures), 0, False, "answers")
    yield Row(f"swap {name}: edit acted on, p95", percentile(acted, 0.95) * 1000, 250, False, "ms")
    yield Row(f"swap {name}: new model answers, median", percentile(swapped, 0.5), None, False, "s")


async def _edits(ours: Ours) -> tuple[list[float], list[float], int, list[str]]:
    stop = asyncio.Event()
    failures: list[str] = []
    answers = 0

    async def stream() -> None:
        nonlocal answers
        while not stop.is_set():
            try:
                await client.ask(ours.port, "default", "Count from one to one hundred.", 64)
            except (RuntimeError, OSError) as error:
                failures.append(str(error))
            answers += 1

    clients = [asyncio.create_task(stream()) for _ in range(CLIENTS)]
    acted, swapped = [], []
    last = await asyncio.to_thread(_last_event, ours.port)
    for i in range(EDITS):
        target = "mini" if i % 2 == 0 else "demo"
        saved = time.time()
        ours.save({**ours.spec, "active": target})
        events = await asyncio.to_thread(_until_applied, ours.port, last, target)
        last = events[-1]["id"]
        acted.append(next(e["at"] for e in events if e["type"] == "Action") - saved)
        swapped.append(next(e["at"] for e in events if e["type"] == "Swapped") - saved)
    stop.set()
    await asyncio.gather(*clients)
    return acted, swapped, answers, failures


def _status(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=30) as answer:
        return json.loads(answer.read())  # type: ignore[no-any-return]


def _last_event(port: int) -> int:
    return int(_status(port)["events"][-1]["id"])


def _until_applied(port: int, after: int, target: str) -> list[dict[str, Any]]:
    """The events of one edit, up to the one that says its generation is Ready."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        status = _status(port)
        events = [e for e in status["events"] if e["id"] > after]
        settled = status["summary"] == "Ready" and status["active"]["actual"] == target
        if settled and any(e["type"] == "Applied" for e in events):
            return events
        time.sleep(0.1)
    raise RuntimeError(f"the edit to {target} was not applied in time")
