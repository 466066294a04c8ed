"""What 200 open dashboards cost: processor time of the parent with them, less what it takes without.

Each does what the page's script does and nothing else: loads page, style and script, then follows
`/admin/events?view=page`. Behind them a small model answers a short question twice a second, so that figures,
charts and events change as they do on a machine in use; so it does in the seconds without dashboards.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import client
from bench.sides import ROOT, Ours
from bench.speed import Row

PAGES = 200
SECONDS = 30.0
EVERY_S = 0.5
MODEL = "bench"
SMALL = ROOT / "examples" / "models" / "lmx-demo-mini"
GOAL = 0.05  # of one core
LOADED = ("/", "/dashboard.css", "/dashboard.js")


@dataclass
class Side:
    """cores: processor time of the parent, in cores. frames, sent: per page and second."""

    cores: float
    frames: float = 0.0
    sent: float = 0.0


def run(scratch: Path, rounds: int) -> Iterator[Row]:
    place = scratch / "dashboards-run"
    place.mkdir()
    ours = Ours(SMALL, place, slo={"ttft_p95": None})
    try:
        found = [asyncio.run(_round(ours, number)) for number in range(min(rounds, 3))]
    finally:
        ours.close()
    without, with_them = zip(*found, strict=True)
    more = statistics.median(b.cores - a.cores for a, b in found)
    figures = (
        ("no dashboard: the parent", [side.cores for side in without], "cores"),
        (f"{PAGES} dashboards: frames", [side.frames for side in with_them], "/s each"),
        (f"{PAGES} dashboards: sent", [side.sent for side in with_them], "bytes/s each"),
    )
    for what, values, unit in figures:
        yield Row(what, statistics.median(values), None, unit=unit)
    yield Row(f"{PAGES} dashboards: what they cost the parent", more, GOAL, False, "cores")


async def _round(ours: Ours, number: int) -> tuple[Side, Side]:
    """Without and with, in turns first."""
    sides: dict[bool, Side] = {}
    for watched in (False, True) if number % 2 == 0 else (True, False):
        sides[watched] = await _side(ours, PAGES if watched else 0)
    return sides[False], sides[True]


async def _side(ours: Ours, pages: int) -> Side:
    """Raises RuntimeError where a page does not get its frames."""
    talk = asyncio.ensure_future(_talk(ours.port))
    opened = [await _Page.open(ours.port) for _ in range(pages)]
    await asyncio.sleep(2.0)  # what they ask for first is no part of it
    parent = psutil.Process(ours.process.pid)
    before, began = parent.cpu_times(), time.perf_counter()
    counted = [(page.frames, page.sent) for page in opened]
    await asyncio.sleep(SECONDS)
    after, took = parent.cpu_times(), time.perf_counter() - began
    frames = [page.frames - old[0] for page, old in zip(opened, counted, strict=True)]
    sent = [page.sent - old[1] for page, old in zip(opened, counted, strict=True)]
    talk.cancel()
    await asyncio.gather(talk, *(page.close() for page in opened), return_exceptions=True)
    cores = (after.user + after.system - before.user - before.system) / took
    if not pages:
        return Side(cores)
    if min(frames) < 0.8 * took:
        raise RuntimeError(f"a page got {min(frames)} frames in {took:.0f} s: too few to say what all cost")
    return Side(cores, statistics.mean(frames) / took, statistics.mean(sent) / took)


async def _talk(port: int) -> None:
    while True:
        await client.ask(port, MODEL, "Who are you?", 8)
        await asyncio.sleep(EVERY_S)


class _Page:
    """One dashboard. frames, sent: since its stream began, whole events and bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.frames = self.sent = 0
        self._reader, self._writer = reader, writer
        self._reading = asyncio.ensure_future(self._read())

    @classmethod
    async def open(cls, port: int) -> _Page:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        for path in LOADED:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(f"{path}: {head!r}")
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
        writer.write(
            f"GET /admin/events?view=page HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Accept: text/event-stream\r\n\r\n".encode()
        )
        return cls(reader, writer)

    async def _read(self) -> None:
        while data := await self._reader.read(65_536):
            self.sent += len(data)
            self.frames += data.count(b"event: page")

    async def close(self) -> None:
        self._reading.cancel()
        self._writer.close()
