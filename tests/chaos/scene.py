"""Runs one scene: an appliance under steady load, faults from a schedule, and a close look afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.appliance import Appliance, Missed
from tests.chaos.faults import Fault
from tests.chaos.faults.engines import Allocates
from tests.chaos.load import QUESTIONS, Record
from tests.chaos.schedule import MOST_S, schedule
from tests.chaos.verdict import Evidence
from tests.chaos.watch import Sample, Sampler, sample
from tests.e2e.machine import ROOT

SETTLED_S = 30.0  # the goal: desired state reached after the last fault
PATIENCE_S = 120.0  # how long is waited for it at all
QUIET_S = 30.0
OPERATOR_S = 1.0


@dataclass
class Report:
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    reconciled: int = 0  # an operator's `lmx reconcile`, for models in quarantine
    settled_s: float = 0.0
    problems: list[str] = field(default_factory=list)
    log: list[tuple[float, str]] = field(default_factory=list)
    evidence: Evidence | None = None
    seconds: float = 0.0


class Scene:
    def __init__(self, appliance: Appliance, seed: int) -> None:
        self.appliance = appliance
        self.report = Report(seed)
        self.down: list[tuple[float, float]] = []
        self._begin = time.monotonic()
        self._lanes: dict[str, asyncio.Lock] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._sampler = Sampler()

    # --- the whole -----------------------------------------------------------------------------------

    async def play(
        self, acts: Sequence[tuple[int, Sequence[type[Fault]]]], clients: int, most_s: float = MOST_S
    ) -> Report:
        """acts: (number of faults, kinds to draw from), one after the other. most_s: between two faults."""
        appliance, report = self.appliance, self.report
        appliance.save()
        await asyncio.to_thread(appliance.up)
        before = await asyncio.to_thread(self._answers)
        quiet_before = await self._quiet()
        self._sampler.pid = appliance.parent().pid
        self._sampler.start()
        load, prober = self._child("load", str(clients), str(report.seed)), self._child("watch")
        reading = [asyncio.create_task(asyncio.to_thread(_read, child)) for child in (load, prober)]
        operator = asyncio.create_task(self._operate())
        try:
            for number, (count, kinds) in enumerate(acts):
                await self._act(count, schedule(report.seed + number, kinds, most_s))
                report.settled_s = max(report.settled_s, await self._settle())
        finally:
            self._sampler.stop()
            for child in (load, prober):
                assert child.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.close()
            operator.cancel()
        records, health = await asyncio.gather(*reading)
        for child, name in ((load, "load"), (prober, "watch")):
            if child.returncode != 0:
                report.problems.append(f"{name} ended with {child.returncode}")
        after = await asyncio.to_thread(self._answers)
        quiet_after = await self._quiet()
        report.evidence = Evidence(
            [Record(**json.loads(line)) for line in records.splitlines()],
            [tuple(item) for item in json.loads(health or "[]")],
            self._sampler.samples,
            quiet_before,
            quiet_after,
            before,
            after,
            self.down,
        )
        await self._leave()
        report.seconds = time.monotonic() - self._begin
        return report

    def _child(self, name: str, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", f"tests.chaos.{name}", str(self.appliance.port), *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _answers(self) -> dict[str, str]:
        return {text: self.appliance.answer(text, max_tokens=64) for text in QUESTIONS}

    # --- faults --------------------------------------------------------------------------------------

    async def _act(self, count: int, drawn: Any) -> None:
        done = sum(self.report.faults.values()) + count
        for pause, fault in drawn:
            await asyncio.sleep(pause)
            lane = self._lanes.setdefault(fault.lane or f"alone {id(fault)}", asyncio.Lock())
            task = asyncio.create_task(self._one(fault, lane))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            if fault.lane == "process":
                await asyncio.gather(*self._running)
            if sum(self.report.faults.values()) + len(self._running) >= done:
                await asyncio.gather(*self._running)
                if sum(self.report.faults.values()) >= done:
                    return

    async def _one(self, fault: Fault, lane: asyncio.Lock) -> None:
        async with lane:
            begin = time.monotonic()
            try:
                await fault.begin(self.appliance)
                self.note(f"{fault}")
                await self._last(fault)
                self.report.faults[fault.kind] += 1
            except Missed as missed:
                self.report.missed[fault.kind] += 1
                self.note(f"{fault} missed: {missed}")
            finally:
                await fault.end(self.appliance)
            if fault.lane == "process":
                # Requests that were under way when it came back up may still be cut.
                self.down.append((begin - 0.5, time.monotonic() + 0.5))
                self._sampler.pid = self.appliance.parent().pid
        if isinstance(fault, Allocates) and fault.survived:
            self.report.problems.append(f"an engine that allocates without end lived on: {fault}")

    async def _last(self, fault: Fault) -> None:
        end = time.monotonic() + fault.seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.1))
            if isinstance(fault, Allocates) and fault.over():
                return

    def note(self, what: str) -> None:
        self.report.log.append((round(time.monotonic() - self._begin, 2), what))

    # --- afterwards ----------------------------------------------------------------------------------

    async def _operate(self) -> None:
        """The one thing that is left to people: a model that crashed three times is freed by hand."""
        while True:
            await asyncio.sleep(OPERATOR_S)
            with contextlib.suppress(OSError, KeyError, ValueError):
                status = await asyncio.to_thread(self.appliance.status)
                if any(m["state"] == "quarantined" for m in status["models"].values()):
                    await asyncio.to_thread(self.appliance.call, "POST", "/admin/reconcile")
                    self.report.reconciled += 1
                    self.note("operator: reconcile")

    async def _settle(self) -> float:
        """Seconds from the last fault until what lmx.yaml says is so, under the steady load."""
        begin = time.monotonic()
        self.appliance.save()
        try:
            await asyncio.to_thread(self.appliance.until, _reached(self.appliance), PATIENCE_S)
        except AssertionError as error:
            self.report.problems.append(f"the desired state was not reached: {error}")
        took = time.monotonic() - begin
        if took > SETTLED_S:
            self.report.problems.append(f"the desired state took {took:.1f} s, goal {SETTLED_S:g} s")
        return took

    async def _quiet(self) -> Sample:
        """Without requests: once nothing is open any more but what is always open."""
        appliance = self.appliance
        end = time.monotonic() + QUIET_S
        while True:
            status = await asyncio.to_thread(appliance.status)
            seen = sample(appliance.parent().pid)
            calm = status["summary"] in ("Ready", "Degraded") and len(appliance.engines()) == 1
            if (calm and status["traffic"]["in_flight"] == 0) or time.monotonic() > end:
                return seen
            await asyncio.sleep(0.2)

    async def _leave(self) -> None:
        """SIGTERM: status 0, and nothing left behind."""
        assert self.appliance.process is not None
        status = await asyncio.to_thread(self.appliance.stop)
        if status != 0:
            self.report.problems.append(f"SIGTERM ended it with {status}")
        left = self.appliance.ours()
        if left:
            self.report.problems.append(f"processes left behind: {left}")


def _read(child: subprocess.Popen[str]) -> str:
    """All it says, until its end. Not `communicate`: that would close its standard input at once."""
    assert child.stdout is not None
    with child.stdout:
        said = child.stdout.read()
    child.wait()
    return said


def _reached(appliance: Appliance) -> Any:
    digest = hashlib.sha256(appliance.file.read_bytes()).hexdigest()

    def holds(status: dict[str, Any]) -> bool:
        synced = next(c for c in status["conditions"] if c["type"] == "Synced")
        return (
            synced["status"] == "True"
            # mini may come and go with requests; and a service level that was missed is remembered for
            # minutes, by design, so only a step of the ladder counts as not yet back
            and status["summary"] in ("Ready", "Reconciling", "Degraded")
            and status["active"]["actual"] == appliance.usual()["active"]
            and status["memory"]["step"] is None
            and status["last_attempted"]["content_digest"] == digest
            and status["last_attempted"]["outcome"] == "applied"
        )

    return holds
