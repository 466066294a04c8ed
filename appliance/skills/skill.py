"""One skill: its state, its processes, and calls that never raise for the skill's sake.

A Python function has one warm process and gets more, up to `concurrency`, while calls run side by side. An
MCP server has one client process for all calls. Either is started anew when it ends, later each time; five
faults in a row, and a circuit breaker leaves it alone for a while.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Literal

from appliance.breakers import Breaker, Open
from appliance.skills.messages import FAULTS, Lost, Ready, Result, Setup, Tool
from appliance.skills.worker import NotStarted, Worker, environment
from reconciler import spec
from reconciler.backoff import delay
from reconciler.units import format_duration

IDLE_S = 60.0  # a process beyond the warm one ends after so long without a call

State = Literal["starting", "ready", "failed"]
_numbers = count(1)

log = logging.getLogger("lmx.skills")


class Skill:
    """base: the folder of lmx.yaml. home: the state folder of this LMX.

    on_state: its state moved; the reason says why. on_call: (outcome, seconds) of each.
    """

    def __init__(
        self,
        name: str,
        form: spec.Skill,
        breaker: Breaker,
        base: Path,
        home: Path,
        on_state: Callable[[Skill], None],
        on_call: Callable[[Skill, str, float], None],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.form = name, form
        self.state: State = "starting"
        self.reason = ""
        self.since = time.time()
        self.tools: dict[str, Tool] = {}
        self.left_out: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self._breaker, self._base, self._home = breaker, base, home
        self._on_state, self._on_call = on_state, on_call
        self._environ = os.environ if environ is None else environ
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(form.concurrency)
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []  # the one used last is at the end
        self._running = 0
        self._failures = 0  # starts in a row
        self._retired = False
        self._settled = asyncio.Event()  # it is ready or has failed
        self._again: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._warm()

    @property
    def breaker(self) -> Breaker:
        return self._breaker

    @property
    def gone(self) -> bool:
        """Nothing of it runs any more."""
        return not self._workers and not self._tasks

    @property
    def pids(self) -> list[int]:
        return sorted(worker.pid for worker in self._workers if worker.ready is not None)

    async def settled(self, seconds: float) -> None:
        """Until it is ready or has failed, for so long at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            return

    async def call(self, tool: str, arguments: dict[str, Any]) -> Result:
        """Run one call. Raises CancelledError alone."""
        began = time.perf_counter()
        try:
            self._breaker.enter()
        except Open as error:
            return self._counted(Result(0, "unavailable", error.message), began)
        self._running += 1
        try:
            result = await self._called(tool, arguments)
        except BaseException:
            self._breaker.left()
            self._counted(Result(0, "cancelled", ""), began)
            raise
        finally:
            self._running -= 1
            if self._retired and not self._running:
                self._end_all()
        if result.outcome in FAULTS:
            self._breaker.failed(self._fault(result))
            if self._breaker.state == "open" and self.form.mcp is not None:
                self._end_all()  # a fresh client, and a fresh server, when it is tried again
        elif result.outcome == "busy":
            self._breaker.left()
        else:
            self._breaker.succeeded()
        return self._counted(result, began)

    def restart(self) -> None:
        """Start anew at once, as a person asks."""
        self._breaker.retry()
        self._failures = 0
        for worker in [*self._workers]:
            if not worker.busy:
                worker.end("it is started anew")
        if not self._workers:
            self._cancel_again()
            self._warm()

    def retire(self) -> None:
        """No more calls come. Those that run go on to their end."""
        self._retired = True
        self._cancel_again()
        if not self._running:
            self._end_all()

    async def close(self) -> None:
        self._retired = True
        self._cancel_again()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._end_all()
        await asyncio.gather(*(worker.closed() for worker in [*self._workers]))

    # --- calls -------------------------------------------------------------------------------------

    async def _called(self, tool: str, arguments: dict[str, Any]) -> Result:
        seconds = self.form.timeout
        try:
            async with asyncio.timeout(seconds):
                await self._free.acquire()
        except TimeoutError:
            text = f"{self.form.concurrency} calls of it are running; none ended within {seconds:g} s"
            return Result(0, "busy", text)
        try:
            worker = await self._a_worker()
        except NotStarted as error:
            self._free.release()
            return Result(0, "unavailable", f"it cannot be started: {error}")
        except BaseException:
            self._free.release()
            raise
        try:
            return await worker.call(tool, arguments, seconds)
        finally:
            self._free.release()
            if self.form.python is not None:
                self._back(worker)

    async def _a_worker(self) -> Worker:
        if self.form.python is None:
            worker = next((worker for worker in self._workers if worker.open), None)
            if worker is None or worker.ready is None:
                raise NotStarted(self.reason or "its client has not started yet")
            return worker
        while self._idle:
            worker = self._idle.pop()
            if worker.open:
                return worker
        return await self._start()

    def _back(self, worker: Worker) -> None:
        """After a call: kept warm, unless it is gone, has grown, or is one too many."""
        if self._retired:
            worker.end("")
        if not worker.open:
            return
        if worker.grown():
            log.info("skill %s: a process has grown and is replaced", self.name)
            worker.end("")
            return
        self._idle.append(worker)
        if len(self._idle) > 1:
            self._loop.call_later(IDLE_S, self._one_fewer)

    def _one_fewer(self) -> None:
        """The one that has waited longest: the last one used is used first."""
        if len(self._idle) > 1:
            self._idle.pop(0).end("")

    def _fault(self, result: Result) -> str:
        """For status and events: without what the skill itself said, which may hold what a client asked."""
        return {
            "error": "it raised an error; the log has it",
            "timeout": f"it took longer than {format_duration(self.form.timeout)}",
        }.get(result.outcome, result.text)

    def _counted(self, result: Result, began: float) -> Result:
        self.calls[result.outcome] += 1
        self._on_call(self, result.outcome, time.perf_counter() - began)
        return result

    # --- processes ---------------------------------------------------------------------------------

    def _warm(self) -> None:
        """Have one process ready before it is asked for."""
        self._again = None
        if self._retired or any(worker.open for worker in self._workers):
            return

        async def start() -> None:
            try:
                worker = await self._start()
            except NotStarted as error:
                self._failures += 1
                self._move("failed", str(error))
                self._later()
            else:
                if self.form.python is not None:
                    self._back(worker)

        task = self._loop.create_task(start())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self) -> Worker:
        worker, env = Worker(self._setup(), self._heard, self._ended), self._environment()
        self._workers.add(worker)
        try:
            await worker.start(env, self._home, f"skill-{self.name}-{next(_numbers)}")
        except BaseException:
            if worker.ended:
                self._workers.discard(worker)
            raise
        self._failures = 0
        assert worker.ready is not None
        self._heard(worker.ready)
        return worker

    def _setup(self) -> Setup:
        form, mcp = self.form, self.form.mcp
        token = None
        if mcp is not None and mcp.token is not None:
            token = self._variable(mcp.token)
        return Setup(
            name=self.name,
            folder=str(self._base),
            memory=form.memory,
            result=form.result,
            seconds=form.timeout,
            python=form.python,
            description=form.description,
            command=list(mcp.command) if mcp is not None and mcp.command is not None else None,
            url=mcp.url if mcp is not None else None,
            token=token,
            tools=list(mcp.tools) if mcp is not None and mcp.tools is not None else None,
            env=self._named() if mcp is not None and mcp.command is not None else {},
        )

    def _environment(self) -> dict[str, str]:
        clean = environment(self._environ, home=self.form.mcp is not None)
        return {**clean, **self._named()} if self.form.python is not None else clean

    def _named(self) -> dict[str, str]:
        return {name: self._variable(name) for name in self.form.env}

    def _variable(self, name: str) -> str:
        value = self._environ.get(name)
        if value is None:
            raise NotStarted(f"the environment variable {name} is not set")
        return value

    def _heard(self, message: Ready | Lost) -> None:
        if isinstance(message, Lost):
            self._move("failed", message.message)
            return
        self.tools = {tool.name: tool for tool in message.tools}
        self.left_out = dict(message.left_out)
        self._move("ready", "")

    def _ended(self, worker: Worker) -> None:
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if not self._workers and self.state == "ready" and self.form.mcp is not None and not self._retired:
            self._move("starting", "its client is started anew")
        if not self._workers:
            self._later()

    def _later(self) -> None:
        if self._again is None and not self._retired:
            self._again = self._loop.call_later(delay(self.name, self._failures), self._warm)

    def _cancel_again(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _end_all(self) -> None:
        for worker in [*self._workers]:
            worker.end("the skill is started anew")

    def _move(self, state: State, reason: str) -> None:
        if state != "starting":
            self._settled.set()
        if (state, reason) == (self.state, self.reason):
            return
        self.state, self.reason, self.since = state, reason, time.time()
        if not self._retired:
            self._on_state(self)
