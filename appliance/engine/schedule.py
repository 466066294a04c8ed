"""The decode thread's loop: take what came in, admit, compute one turn, deliver.

Admission happens between any two steps. The order of one turn:

1. commands: new jobs to the queue, cancelled rows out;
2. admission: the head of the queue, and those behind it whose prompts fit into the same chunk;
3. one decode step for all rows, its text sent in one frame while the next step computes;
4. one chunk of one prompt batch: a chunk is the most that running rows wait.

A request that was accepted always ends with a row that carries `finish`, whatever fails.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque

import mlx.core as mx

from appliance.engine.beat import Gauge
from appliance.engine.decode import Decoding, Prefill, Row
from appliance.engine.intake import Cancelled, Command, Intake, Stop
from appliance.engine.link import Closed, Link
from appliance.engine.load import Model
from appliance.engine.output import Output
from appliance.engine.prompt import Job
from appliance.engine.sampling import Processor, Samplers
from appliance.wire import Finish, Step
from appliance.wire import Row as Line

log = logging.getLogger(__name__)

GATHER = 0.01  # seconds an idle engine waits for requests that are being tokenised already
TIDY = 512  # steps between two clearings of MLX's buffer cache
TIDY_AFTER = 2.0  # seconds without work after which it is cleared too


class Scheduler:
    def __init__(self, model: Model, link: Link, intake: Intake, gauge: Gauge) -> None:
        self._model = model
        self._link = link
        self._intake = intake
        self._gauge = gauge
        self._end_tokens = model.end_tokens
        self._samplers = Samplers()
        self._waiting: deque[Job] = deque()
        self._prefills: list[Prefill] = []
        self._decoding = Decoding(model.net)
        self._turns = 0
        self._stopping = False

    # -- the loop ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until Stop."""
        while True:
            try:
                self._take()
                if self._stopping:
                    return
                self._admit()
                self._turn()
            except Closed:
                raise
            except Exception as error:  # noqa: BLE001  whatever it is, the rows must hear of it
                self._fail_all(error)
            self._report()

    def _busy(self) -> bool:
        return bool(self._decoding.rows or self._prefills)

    def _take(self) -> None:
        inbox = self._intake.inbox
        if not self._busy() and not self._waiting:
            self._gauge.enter("idle")
            self._do(self._first())
            self._gather()
        while not inbox.empty():
            self._do(inbox.get())

    def _first(self) -> Command:
        """Wait for work; give freed buffers back to the system when none comes for a while."""
        try:
            return self._intake.inbox.get(timeout=TIDY_AFTER)
        except queue.Empty:
            mx.clear_cache()
            return self._intake.inbox.get()

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
            self._waiting.append(command)
        elif isinstance(command, Cancelled):
            self._cancel(command.rid)
        elif isinstance(command, Stop):
            self._stopping = True

    def _report(self) -> None:
        gauge = self._gauge
        gauge.rows = len(self._decoding.rows) + sum(len(prefill.rows) for prefill in self._prefills)
        gauge.waiting = len(self._waiting)

    # -- admission -----------------------------------------------------------------------------------

    def _slots(self) -> int:
        most = max(1, self._intake.limits.concurrency) if self._model.batchable else 1
        return most - len(self._decoding.rows) - sum(len(prefill.rows) for prefill in self._prefills)

    def _chunk(self) -> int:
        return max(1, self._intake.limits.prefill_chunk)

    def _admit(self) -> None:
        while self._waiting and (slots := self._slots()) > 0:
            rows = []
            for job in together(self._waiting, slots, self._chunk()):
                try:
                    rows.append(self._row(job))
                except Exception as error:
                    log.exception("request %d cannot start", job.rid)
                    self._link.send(Step([Line(job.rid, "", 0, "error", describe(error))]))
            if rows:
                self._prefills.append(Prefill(self._model.net, rows))

    def _row(self, job: Job) -> Row:
        return Row(
            job=job,
            output=Output(self._model.tokenizer, job.stop),
            sampler=self._samplers.get(job.choice, job.seed),
            processor=None if job.choice.plain else Processor(job.choice, job.prompt),
        )

    # -- one turn ------------------------------------------------------------------------------------

    def _turn(self) -> None:
        if self._decoding.rows:
            self._gauge.enter("decode")
            self._decode()
        if self._prefills:
            self._gauge.enter("prefill")
            self._prefill()
        self._turns += 1
        if self._turns % TIDY == 0:
            mx.clear_cache()

    def _decode(self) -> None:
        rows = self._decoding.rows
        last = all(row.primed and row.produced + 1 >= row.job.max_tokens for row in rows)
        ready = self._decoding.step(last=last)
        self._gauge.advance()
        lines = [line for row, token in ready if (line := self._line(row, token)) is not None]
        ended = {line.rid for line in lines if line.finish is not None}
        for row in rows:
            if row.failed is not None and row.job.rid not in ended:
                ended.add(row.job.rid)
                lines.append(self._error(row, row.failed))
        if lines:
            self._link.send(Step(lines))
        if ended:
            self._decoding.keep([row for row in rows if row.job.rid not in ended])

    def _prefill(self) -> None:
        """One chunk, of the prompts that are nearest to done; every other turn, of the oldest."""
        if self._turns % 2:
            prefill = self._prefills[0]
        else:
            prefill = min(self._prefills, key=lambda prefill: prefill.left)
        try:
            tokens = prefill.advance(self._chunk())
        except Exception as error:
            log.exception("a prefill of %d prompts failed", len(prefill.rows))
            self._prefills.remove(prefill)
            self._link.send(Step([self._error(row, describe(error)) for row in prefill.rows]))
            return
        self._gauge.prompt_tokens += tokens
        self._gauge.advance()
        if prefill.left == 0:
            self._gauge.prompt_tokens += len(prefill.rows)  # the last of each goes through with the rest
            self._prefills.remove(prefill)
            self._decoding.join(prefill)

    # -- what goes out -------------------------------------------------------------------------------

    def _line(self, row: Row, token: int) -> Line | None:
        """What the parent is told of a row's newest token; None: nothing to see yet."""
        job = row.job
        self._gauge.output_tokens += 1
        finish: Finish | None = None
        try:
            if token in self._end_tokens and not job.ignore_eos:
                piece, finish = row.output.end(), "stop"
            else:
                piece = row.output.push(token)
                if piece.stop is not None:
                    finish = "stop"
                elif row.produced >= job.max_tokens:
                    rest = row.output.end()
                    piece = type(piece)(piece.text + rest.text, rest.stop)
                    finish = "length" if rest.stop is None else "stop"
        except Exception as error:
            log.exception("cannot detokenise token %d", token)
            return self._error(row, f"token {token} cannot be written as text: {describe(error)}")
        if finish is None and not piece.text:
            return None
        return Line(job.rid, piece.text, row.produced, finish, None, piece.stop)

    def _error(self, row: Row, message: str) -> Line:
        return Line(row.job.rid, "", row.produced, "error", message)

    def _cancel(self, rid: int) -> None:
        """Free what the request holds. An unknown one has just ended, and nothing is to be done."""
        for job in self._waiting:
            if job.rid == rid:
                self._waiting.remove(job)
                return self._link.send(Step([Line(rid, "", 0, "cancelled")]))
        for prefill in self._prefills:
            for row in prefill.rows:
                if row.job.rid == rid:
                    prefill.rows.remove(row)
                    if not prefill.rows:
                        self._prefills.remove(prefill)
                    return self._link.send(Step([Line(rid, "", 0, "cancelled")]))
        for row in self._decoding.rows:
            if row.job.rid == rid:
                self._decoding.keep([other for other in self._decoding.rows if other is not row])
                return self._link.send(Step([Line(rid, "", row.produced, "cancelled")]))
        return None

    def _fail_all(self, error: Exception) -> None:
        """The batch is in an unknown state: end its rows, and start over with an empty one."""
        log.error("a step failed; its rows end here", exc_info=error)
        rows = [row for prefill in self._prefills for row in prefill.rows] + self._decoding.rows
        self._prefills = []
        self._decoding = Decoding(self._model.net)
        mx.clear_cache()
        if rows:
            self._link.send(Step([self._error(row, describe(error)) for row in rows]))


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def together(waiting: deque[Job], slots: int, chunk: int) -> list[Job]:
    """Take the head of the queue, and those behind it that fit into one chunk with it.

    Fitting counts the padding, and padding may cost half of the work at most (short prompts are cheap
    beside the pass itself, hence the constant). The others keep their places.
    """
    head = waiting.popleft()
    taken, longest, total = [head], len(head.prompt), len(head.prompt)
    if longest == 1:
        return taken  # nothing to process before its first step
    for job in list(waiting):
        if len(taken) >= slots:
            break
        length = len(job.prompt)
        padded = (len(taken) + 1) * max(longest, length)
        if length > 1 and padded <= chunk and padded <= 1.5 * (total + length) + 64:
            taken.append(job)
            longest, total = max(longest, length), total + length
            waiting.remove(job)
    return taken
