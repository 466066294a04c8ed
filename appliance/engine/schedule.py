"""The decode thread's loop: take what came in, admit, compute one turn, deliver.

Admission happens between any two steps. The order of one turn:

1. commands: new requests to those that wait, cancelled rows out;
2. admission: who starts, and from what the prompt cache has for it (`admission`);
3. one decode step of every batch, then one chunk of one prompt: a chunk is the most that running rows
   wait (`running`, `pacing`, `groups`);
4. the prompt cache's own turn, and the books: memory, figures.

A request that was accepted always ends with a row that carries `finish`, whatever fails.
"""

from __future__ import annotations

import queue
import time

import mlx.core as mx

from appliance.engine import freed
from appliance.engine.admission import Admission
from appliance.engine.allowance import Allowance
from appliance.engine.beat import Gauge
from appliance.engine.fairness import Fair
from appliance.engine.intake import Cancelled, Command, Configured, Intake, Stop
from appliance.engine.link import Closed, Link
from appliance.engine.load import Model
from appliance.engine.pricing import Batch
from appliance.engine.prompt import Job
from appliance.engine.reuse import Off, Reuse
from appliance.engine.running import Exhausted, Running
from appliance.wire import DropSession, FromEngine, ListSessions, Sessions, Step
from appliance.wire import Row as Line

GATHER = 0.01  # seconds an idle engine waits for requests that are being tokenised already
TIDY = 512  # turns between two clearings of MLX's buffer cache
TIDY_AFTER = 2.0  # seconds without work after which it is cleared too
IDLE = 30.0  # seconds between two looks of an idle engine's prompt cache at what can wait


class Scheduler:
    def __init__(
        self, model: Model, link: Link, intake: Intake, gauge: Gauge, reuse: Reuse | None = None
    ) -> None:
        """reuse: the prompt cache; without one, nothing is kept."""
        self._link = link
        self._intake = intake
        self._segments = model.template.segments
        self._gauge = gauge
        self._reuse: Reuse = Off() if reuse is None else reuse
        self._reuse.apply(intake.limits)
        gauge.cache = self._reuse.use
        self._allowance = Allowance(model.price, intake.limits, self._reuse)
        fair = Fair()
        self._running = Running(model, self._reuse, gauge, fair, self._fits, self._send)
        self._admission = Admission(
            model, self._reuse, intake, self._allowance, self._running, fair, self._send
        )
        self._turns = 0
        self._stopping = False

    def run(self) -> None:
        """Serve until Stop. Raises MemoryError where even an empty engine finds none."""
        while True:
            try:
                self._take()
                if self._stopping:
                    self._reuse.close()
                    return
                self._gauge.work()
                self._admission.turn()
                self._running.gather(self._intake.limits)
                self._running.turn(self._intake.limits)
                self._reuse.turn()
                self._turns += 1
                if self._turns % TIDY == 0:
                    mx.clear_cache()
            except (Closed, Exhausted):
                raise
            except Exception as error:  # noqa: BLE001  whatever it is, the rows must hear of it
                self._running.fail(error)
            self._report()

    def _fits(self, batches: list[Batch]) -> bool:
        return self._allowance.fits([*batches, *self._admission.reserved])

    def _send(self, message: FromEngine) -> None:
        """A parent that does not read stops us here; that is not work."""
        working = self._gauge.rest()
        self._link.send(message)
        if working:
            self._gauge.work()

    # -- commands ------------------------------------------------------------------------------------

    def _take(self) -> None:
        inbox = self._intake.inbox
        if not self._running.rows and self._admission.stuck:
            self._gauge.enter("idle")
            self._do(self._first())
            self._gather()
        while not inbox.empty():
            self._do(inbox.get())

    def _first(self) -> Command:
        """Wait for work; give freed buffers back to the system when none comes for a while."""
        inbox = self._intake.inbox
        wait = TIDY_AFTER
        while True:
            self._reuse.idle()
            try:
                return inbox.get(timeout=wait)
            except queue.Empty:
                if wait == TIDY_AFTER:
                    freed.release()
                wait = IDLE

    def _gather(self) -> None:
        """Requests that arrive together are worked on together: wait for those in the tokeniser."""
        deadline = time.monotonic() + GATHER
        while self._intake.preparing and (left := deadline - time.monotonic()) > 0:
            try:
                self._do(self._intake.inbox.get(timeout=left))
            except queue.Empty:
                return

    def _do(self, command: Command) -> None:
        if isinstance(command, Job):
            self._admission.add(command)
        elif isinstance(command, Cancelled):
            self._cancel(command.rid)
        elif isinstance(command, Configured):
            self._reuse.apply(self._intake.limits)
            self._allowance.apply(self._intake.limits)
        elif isinstance(command, ListSessions):
            self._send(Sessions(command.number, self._reuse.sessions()))
        elif isinstance(command, DropSession):
            self._segments.clear()  # the texts of all sessions; what others say is soon known again
            self._send(Sessions(command.number, self._reuse.drop(command.name, command.scope)))
        elif isinstance(command, Stop):
            self._stopping = True

    def _cancel(self, rid: int) -> None:
        """Free what the request holds. An unknown one has just ended, and nothing is to be done."""
        waited = self._admission.cancel(rid)
        line = Line(rid, "", 0, "cancelled") if waited else self._running.cancel(rid)
        if line is not None:
            self._send(Step([line]))

    # -- the books -----------------------------------------------------------------------------------

    def _report(self) -> None:
        gauge, admission = self._gauge, self._admission
        self._allowance.hold([*self._running.batches(), *admission.reserved])
        self._allowance.tidy()
        gauge.rows = len(self._running.rows)
        gauge.waiting = admission.count
        gauge.reserved = self._allowance.reserved
        gauge.rest()
