"""One engine: a child process from spawn to reaped, and the requests it holds.

All calls and callbacks run on the event loop. Messages change the state as they arrive; one task per
engine waits for whatever ends it, sees it out, and settles what is left: requests, files, figures.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass

from appliance import wire
from appliance.errors import CODES
from appliance.hub import chat_template
from appliance.supervisor import endings, pidfiles, probe, process
from appliance.supervisor.asking import Answer, Asking
from appliance.supervisor.configuration import configuration
from appliance.supervisor.deadlines import Watch
from appliance.supervisor.leases import Leases
from appliance.supervisor.link import Link
from appliance.supervisor.order import Answers, House, Order, Sink
from appliance.supervisor.vitals import Vitals
from appliance.supervisor.warmup import Warmup
from reconciler.observed import EngineInfo, EngineObs, EngineState, Failure, Limits

log = logging.getLogger("lmx.supervisor")

Vectors = wire.Embedded | wire.Ranked | wire.Unanswered

LAST_WORDS = 2.0  # seconds an engine that has nothing to live for gets to exit by itself
TERM = 1.0  # seconds between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Ending:
    """Why the engine goes, and how gently. grace: seconds to exit by itself; 0: killed at once."""

    grace: float
    ask: bool = False  # send Shutdown


class Engine:
    def __init__(self, order: Order, house: House) -> None:
        self.order = order
        self.limits = order.limits
        self._orders = configuration(order.limits)
        self.state = EngineState.STARTING
        self._house = house
        self._loop = asyncio.get_running_loop()
        self.since = self._born = self._loop.time()
        self._probing = 0.0  # the watch's age when the probe was sent
        self._child: process.Child | None = None
        self._link = Link(self._message, self._lost, self._free)
        self._watch = Watch(house.deadlines)
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Future[Ending] = self._loop.create_future()
        self._leases = Leases()
        self._template = chat_template.digest(order.load.chat_template)
        self._warmup = Warmup(order.warmup, self.submit, self.cancel, self._warmed)
        self._warming: float | None = None  # the watch's age when the warm-up began
        self.asking = Asking(self._link.send)
        self._questions: dict[int, asyncio.Future[Vectors]] = {}  # to an encoder, by the number of the lease
        self._steps = 0
        self._info: EngineInfo | None = None
        self._failure: Failure | None = None
        self._stop_reason: str | None = None
        self._stop_code = "engine_failed"
        self._progress = (0, 0)
        self._vitals = Vitals()
        self._start_s: float | None = None
        self._resident = 0
        self._measured = self.since
        self._released: int | None = None
        self.task = self._loop.create_task(self._live(), name=f"engine {order.id}")

    # --- what others see and ask ------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self.order.id

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    @property
    def leases(self) -> int:
        return len(self._leases)

    @property
    def open(self) -> bool:
        """Takes a request now: ready, and not behind with reading."""
        return self.state is EngineState.READY and self._answering

    @property
    def finishing(self) -> bool:
        """Takes more of what it has begun: another row of a request that it holds already."""
        return self.state in (EngineState.READY, EngineState.DRAINING) and self._answering

    @property
    def rows(self) -> int:
        """Most requests it decodes together."""
        return self.limits.concurrency if self._info is None or self._info.batchable else 1

    @property
    def _answering(self) -> bool:
        return self._link.writable and not self._ending.done()

    @property
    def loaded(self) -> bool:
        """Its model is there, and questions about it are answered."""
        there = (EngineState.PROBING, EngineState.READY, EngineState.DRAINING)
        return self.state in there and not self._ending.done()

    @property
    def waiting(self) -> int:
        """Of the requests it holds, those that it has not begun, as its last beat said."""
        return self._vitals.waiting

    def submit(self, submit: wire.Submit, sink: Sink) -> None:
        """Only while `open` or `finishing`. Raises wire.WireError, or what msgspec says of odd values."""
        frame = wire.encode(submit)
        self._leases.add(submit.rid, sink)
        self._link.send(frame)

    def ask(self, rid: int, question: wire.Embed | wire.Rank, sink: Answers) -> None:
        """A question to an encoder, which begins it at once. Only while `open`; raises as `submit` does."""
        future = self.asking.put(question)
        self._questions[rid] = future
        self._leases.add(rid, sink)
        self._leases.accept(wire.Accepted(rid, 0))
        future.add_done_callback(lambda _: self._answered(rid, sink, future))

    def _answered(self, rid: int, sink: Answers, future: asyncio.Future[Vectors]) -> None:
        self._questions.pop(rid, None)
        if not future.cancelled() and self._leases.release(rid):  # else nobody waits for it any more
            sink.answered(future.result())
            self._free()

    def cancel(self, rid: int) -> None:
        """Let go of a request. Its lease ends here: Cancel reaches the engine before any later Submit."""
        if self._leases.release(rid):
            question = self._questions.get(rid)
            if question is None:
                self._link.send(wire.encode(wire.Cancel(rid)))
            else:
                question.cancel()
            self._free()

    def configure(self, limits: Limits) -> None:
        self._orders = configuration(limits)
        self.limits = limits
        if self._info is not None:
            self._link.send(wire.encode(self._orders))

    def note_memory(self, footprint: int) -> None:
        """What the sampler has just measured. Where nobody does, `_look` measures once a second."""
        if self.state is not EngineState.EXITED:
            self._resident, self._measured = footprint, self._loop.time()

    def drain(self) -> None:
        """Take no new request. Those not yet accepted go back; the others run to their end."""
        if self.state is not EngineState.READY:
            return
        self._enter(EngineState.DRAINING)
        for rid in self._leases.return_unanswered():
            self._link.send(wire.encode(wire.Cancel(rid)))

    def stop(self, reason: str, grace: float, code: str = "engine_failed") -> None:
        """Shutdown, after `grace` SIGTERM, then SIGKILL. Returns at once.

        What it has not begun goes back to the queue; the rest ends here and now with `code`, a key of
        `CODES`. Raises ValueError for another.
        """
        if code not in CODES:
            raise ValueError(f"{code!r} is no error code")
        if self.state is EngineState.EXITED:
            return
        if self._stop_reason is None and self._failure is None:
            self._stop_reason, self._stop_code = reason, code
        self._end(Ending(grace, ask=True))
        self._let_go()
        if grace <= 0 and self.state is EngineState.STOPPING:  # it had been given longer before
            self.kill()

    def kill(self, failure: Failure | None = None) -> None:
        """SIGKILL now. failure: why, as its own fault, also where it had been told to go before."""
        if self.state is EngineState.EXITED:
            return
        if failure is not None:
            self._failure, self._stop_reason = failure, None
            self._end(Ending(0))
            self._let_go()
        if self._child is not None:
            self._child.kill()

    def observe(self) -> EngineObs:
        return EngineObs(
            id=self.order.id,
            model=self.order.model,
            digest=self.order.digest,
            own_digest=self.order.own_digest,
            state=self.state,
            since=self.since,
            pid=self.pid,
            leases=self.leases,
            limits=self.limits,
            info=self._info,
            failure=self._failure,
            stop_reason=self._stop_reason,
            progress=self._progress,
            memory_bytes=max(self._vitals.mlx_bytes, self._resident),
            released_bytes=self._released,
            waiting=self._vitals.waiting,
            saturation=self._vitals.saturation,
            start_s=self._start_s,
            cache=self._vitals.cache,
            warmup=self._warmup.observe(),
            template=self._template,
            tool_failures=self._vitals.tool_failures,
        )

    # --- what the engine says ---------------------------------------------------------------------

    def _message(self, message: wire.FromEngine) -> None:
        if type(message) is wire.Step:
            self._steps += 1
            self._watch.stage = "decode"  # the next beat is up to half a second away
            if self._leases.hand_out(message.rows):
                self._free()
        elif isinstance(message, wire.Beat):
            self._watch.beat(message)
            self._vitals.beat(message, self._loop.time())
        elif isinstance(message, wire.Accepted):
            self._leases.accept(message)
        elif isinstance(message, wire.Refused):
            if self._leases.refuse(message):
                self._free()
        elif isinstance(message, Answer):
            self.asking.answered(message)
        elif isinstance(message, wire.Progress):
            self._progress = (message.done, message.total)
        elif isinstance(message, wire.Hello):
            self._hello(message)
        elif isinstance(message, wire.Loaded):
            self._loaded(message)
        elif isinstance(message, wire.LoadFailed):
            self._fail(Failure("load_failed", message.message, message.code, message.permanent))

    def _hello(self, hello: wire.Hello) -> None:
        if hello.protocol != wire.PROTOCOL:
            text = f"the engine speaks protocol {hello.protocol}, this program {wire.PROTOCOL}"
            self._fail(Failure("load_failed", text, permanent=True))
        elif self.state is EngineState.STARTING:
            self._enter(EngineState.LOADING)

    def _loaded(self, loaded: wire.Loaded) -> None:
        fields = {name: getattr(loaded, name) for name in EngineInfo.__dataclass_fields__}
        self._info = EngineInfo(**fields)
        if self.state is not EngineState.LOADING:
            return
        self._link.send(wire.encode(self._orders))
        self._probing = self._watch.age
        self._enter(EngineState.PROBING)
        if loaded.role == "chat":
            self.submit(probe.submit(self.order.probe), probe.ProbeSink(self._probed))
        else:
            asked = self.asking.put(probe.question(self.order.probe, loaded.role))
            asked.add_done_callback(self._probe_answered)

    def _probe_answered(self, future: asyncio.Future[Vectors]) -> None:
        if not future.cancelled():  # else the engine ends, and says itself why
            self._probed(probe.verdict(future.result()))

    def _probed(self, failure: str | None) -> None:
        """The probe's verdict."""
        if self.state is not EngineState.PROBING:
            return
        if failure is not None:
            self._fail(Failure("probe_failed", failure))
            return
        self._warming = self._watch.age
        self._warmup.start()

    def _warmed(self) -> None:
        """It has read what it is to have read before it takes traffic."""
        if self.state is not EngineState.PROBING:
            return
        for name, why in self._warmup.observe().failed:
            log.warning("engine %s could not warm up with %s: %s", self.id, name, why)
        self._start_s = self._loop.time() - self._born
        self._enter(EngineState.READY)
        self._free()

    # --- ends -------------------------------------------------------------------------------------

    def _fail(self, failure: Failure, grace: float = LAST_WORDS) -> None:
        """The first reason counts, unless we asked it to go before."""
        if self._failure is None and self._stop_reason is None:
            self._failure = failure
        self._end(Ending(grace, ask=True))

    def _end(self, ending: Ending) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)

    def _exited(self) -> None:
        self._end(Ending(0))

    def _lost(self, error: Exception | None) -> None:
        if isinstance(error, wire.WireError):
            self._fail(Failure("crash", f"the engine sent what is no message: {error}"), grace=0)
        elif error is not None and not isinstance(
            error, OSError
        ):  # a fault of ours, logged by the event loop
            self._fail(Failure("exit", f"reading from the engine failed: {error!r}"), grace=0)
        self._end(Ending(LAST_WORDS))

    async def _live(self) -> None:
        """From spawn to reaped. Ends in EXITED whatever happens."""
        kills = endings.oom_kills()
        try:
            command, env = self._house.command, process.environment(os.environ)
            child, sock = await process.spawn(self.id, command, env, self._exited)
        except OSError as error:
            self._failure = Failure("exit", f"the engine's process could not be started: {error}")
            self._settled(0)
            return
        self._child = child
        held = 0
        try:
            await self._loop.create_connection(lambda: self._link, sock=sock)
            self._begin(child)
            ending = await self._ending
            held = max(self._vitals.mlx_bytes, self._house.footprint(child.pid) or self._resident)
            self._enter(EngineState.STOPPING)
            self._leases.return_unanswered()
            await self._see_out(child, ending)
        except Exception as error:  # a fault of ours: this engine goes and says so, the others stay
            log.exception("supervising engine %s failed", self.id)
            self._failure = self._failure or Failure("exit", f"supervising the engine failed: {error!r}")
        finally:
            child.kill()
            if self._timer is not None:
                self._timer.cancel()
        await child.exited.wait()
        await self._hear_out(child)
        if self._failure is None and self._stop_reason is None:
            tail, stage, by_kernel = bytes(child.tail), self._watch.stage, endings.oom_kills() > kills
            self._failure = endings.ended(child.returncode, tail, stage, kernel_killed=by_kernel)
        self._settled(held)

    def _begin(self, child: process.Child) -> None:
        try:
            pidfiles.write(self._house.state, self.id, child.pid)
        except OSError as error:  # it serves all the same, and still dies with its parent
            log.error("no pid file for engine %s: %s", self.id, error)
        self._house.on_change()
        self._link.send(wire.encode(self.order.load))
        self._look()

    async def _see_out(self, child: process.Child, ending: Ending) -> None:
        """Ask, wait, insist. What is still there afterwards is killed."""
        if ending.ask:
            self._link.send(wire.encode(wire.Shutdown()))
        if ending.grace > 0 and not await child.wait(ending.grace):
            if self._failure is None and self._stop_reason is None:
                self._failure = Failure("hang", "the engine closed its connection and did not exit; killed")
            log.warning("engine %s did not exit within %g s; ending it", self.id, ending.grace)
            child.terminate()
            await child.wait(TERM)

    async def _hear_out(self, child: process.Child) -> None:
        """The process is gone: read what it still said, and let go of both pipes."""
        try:
            async with asyncio.timeout(LAST_WORDS):
                await self._link.lost.wait()
        except TimeoutError:  # something it started holds the socket open
            self._link.abort()
            await self._link.lost.wait()
        await child.close()

    def _settled(self, held: int) -> None:
        """held: bytes the process had when it was still there."""
        pid = self.pid
        self._released = max(0, held - (0 if pid is None else self._house.footprint(pid)))
        self._vitals.gone()
        self._resident = 0
        self._let_go()
        pidfiles.remove(self._house.state, self.id)
        self._enter(EngineState.EXITED)

    def _let_go(self) -> None:
        """No request is left with it: what had not begun may run elsewhere, the rest hears why it ends."""
        self._leases.return_unanswered()
        self._leases.lose(
            endings.epitaph(self.order.model, self._failure, self._stop_code, self._stop_reason)
        )
        self.asking.lose()
        self._house.on_free(self)

    # --- the clock --------------------------------------------------------------------------------

    def _look(self) -> None:
        now = self._loop.time()
        self._timer = self._loop.call_later(self._house.deadlines.look, self._look)
        if now - self._measured >= 1.0 and self._child is not None:
            self._measured = now
            self._resident = self._house.footprint(self._child.pid)
        hung = self._watch.look(now, self._link.frames, self._steps, self._leases.unanswered)
        if hung is not None:
            self._fail(Failure("hang", f"{hung}; killed"), grace=0)
        elif self.state in (EngineState.STARTING, EngineState.LOADING):
            if self._watch.age > self.order.load_timeout:
                text = f"the model was not loaded within {self.order.load_timeout:g} s"
                self._fail(Failure("load_failed", text, "load_timeout"), grace=0)
        elif self.state is EngineState.PROBING:
            if self._warming is not None:
                if self._watch.age - self._warming > self.order.load_timeout:
                    self._warmup.expire(self.order.load_timeout)
            elif self._watch.age - self._probing > self.order.probe.within:
                self._probed(f"no answer to the probe within {self.order.probe.within:g} s")

    # --- small steps ------------------------------------------------------------------------------

    def _enter(self, state: EngineState) -> None:
        self.state = state
        self.since = self._loop.time()
        self._house.on_change()

    def _free(self) -> None:
        self._house.on_free(self)
        if self.state is EngineState.DRAINING and not self.leases:
            self._house.on_change()
