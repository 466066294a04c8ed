"""The decode thread's loop: take what came in, admit, compute one turn, deliver.

Admission happens between any two steps. The order of one turn:

1. commands: new jobs to the queue, cancelled rows out;
2. admission: the head of the queue, if the memory for it is there, and those behind it whose prompts fit
   into the same chunk. Only now are they Accepted: until then they may run elsewhere;
3. one decode step for all rows, its text sent in one frame while the next step computes;
4. one chunk of one prompt batch: a chunk is the most that running rows wait.

A request that was accepted always ends with a row that carries `finish`, whatever fails. One that waits
for memory is overtaken by nobody, and never waits for ever: rows that run will end, and where none runs
and it still does not fit, it is refused.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable

import mlx.core as mx

from appliance.engine import prompt
from appliance.engine.allowance import Allowance
from appliance.engine.beat import Gauge
from appliance.engine.decode import Decoding, Prefill, Row
from appliance.engine.intake import Cancelled, Command, Configured, Intake, Stop
from appliance.engine.link import Closed, Link
from appliance.engine.load import Model, is_memory
from appliance.engine.output import Output
from appliance.engine.prompt import Job
from appliance.engine.sampling import Processor, Samplers
from appliance.wire import Accepted, Finish, FromEngine, Refused, Step
from appliance.wire import Row as Line

log = logging.getLogger(__name__)

GATHER = 0.01  # seconds an idle engine waits for requests that are being tokenised already
TIDY = 512  # steps between two clearings of MLX's buffer cache
TIDY_AFTER = 2.0  # seconds without work after which it is cleared too
GIVE_UP = 3  # steps in a row that found no memory; a fresh process is the only help then


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
        self._allowance = Allowance(model.price, intake.limits)
        self._turns = 0
        self._short = 0  # steps in a row that found no memory
        self._stopping = False

    # -- the loop ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until Stop. Raises MemoryError where even an empty engine finds none."""
        while True:
            try:
                self._take()
                if self._stopping:
                    return
                self._gauge.work()
                self._admit()
                self._turn()
            except (Closed, Exhausted):
                raise
            except Exception as error:  # noqa: BLE001  whatever it is, the rows must hear of it
                self._fail_all(error)
            self._report()

    def _busy(self) -> bool:
        return bool(self._decoding.rows or self._prefills)

    def _running(self) -> list[Row]:
        return [*self._decoding.rows, *(row for prefill in self._prefills for row in prefill.rows)]

    def _send(self, message: FromEngine) -> None:
        """A parent that does not read stops us here; that is not work."""
        working = self._gauge.rest()
        self._link.send(message)
        if working:
            self._gauge.work()

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
        elif isinstance(command, Configured):
            self._allowance.apply(self._intake.limits)
        elif isinstance(command, Stop):
            self._stopping = True

    def _report(self) -> None:
        gauge, running = self._gauge, self._running()
        self._allowance.hold(len(running), most_tokens(running))
        self._allowance.tidy()
        gauge.rows = len(running)
        gauge.waiting = len(self._waiting)
        gauge.reserved = self._allowance.reserved
        gauge.rest()

    # -- admission -----------------------------------------------------------------------------------

    def _slots(self) -> int:
        most = max(1, self._intake.limits.concurrency) if self._model.batchable else 1
        return most - len(self._running())

    def _chunk(self) -> int:
        return max(1, self._intake.limits.prefill_chunk)

    def _admit(self) -> None:
        while self._waiting and (slots := self._slots()) > 0:
            running = self._running()
            count, most = len(running), most_tokens(running)

            def fits(jobs: int, tokens: int, count: int = count, most: int = most) -> bool:
                return self._allowance.fits(count + jobs, max(most, tokens))

            if not fits(1, self._waiting[0].total):
                if running:
                    return
                self._refuse(self._waiting.popleft())
                continue
            jobs = together(self._waiting, slots, self._chunk(), fits)
            rows = [row for job in jobs if (row := self._begin(job)) is not None]
            if rows:
                self._prefills.append(Prefill(self._model.net, rows, self._model.kv_bits))
                self._allowance.hold(count + len(rows), max(most, most_tokens(rows)))

    def _begin(self, job: Job) -> Row | None:
        try:
            row = self._row(job)
        except Exception as error:
            log.exception("request %d cannot start", job.rid)
            self._send(Step([Line(job.rid, "", 0, "error", describe(error))]))
            return None
        self._send(Accepted(job.rid, len(job.prompt)))
        return row

    def _refuse(self, job: Job) -> None:
        """Nothing runs and it does not fit: the allowance shrank while it waited, and may not come back."""
        refusal = prompt.no_room(job, self._intake.limits, self._model.price)
        self._send(Refused(job.rid, refusal.code, refusal.message, refusal.param, refusal.details))

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
            try:
                self._decode()
            except Closed:
                raise
            except Exception as error:  # noqa: BLE001  prompts in work have caches of their own
                self._fail_decoding(error)
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
        self._short = 0
        self._gauge.advance()
        lines = [line for row, token in ready if (line := self._line(row, token)) is not None]
        ended = {line.rid for line in lines if line.finish is not None}
        for row in rows:
            if row.failed is not None and row.job.rid not in ended:
                ended.add(row.job.rid)
                lines.append(self._error(row, row.failed))
        if lines:
            self._send(Step(lines))
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
            rows, prefill.cache = prefill.rows, []
            self._end(rows, error)
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
                return self._send(Step([Line(rid, "", 0, "cancelled")]))
        for prefill in self._prefills:
            for row in prefill.rows:
                if row.job.rid == rid:
                    prefill.rows.remove(row)
                    if not prefill.rows:
                        self._prefills.remove(prefill)
                    return self._send(Step([Line(rid, "", 0, "cancelled")]))
        for row in self._decoding.rows:
            if row.job.rid == rid:
                self._decoding.keep([other for other in self._decoding.rows if other is not row])
                return self._send(Step([Line(rid, "", row.produced, "cancelled")]))
        return None

    def _fail_decoding(self, error: Exception) -> None:
        """The batch is in an unknown state: end its rows, and start over with an empty one."""
        log.error("a step failed; its rows end here", exc_info=error)
        rows = self._decoding.rows
        self._decoding = Decoding(self._model.net)
        self._end(rows, error)

    def _fail_all(self, error: Exception) -> None:
        """Neither what decodes nor what joins it can be trusted: end all rows."""
        log.error("a turn failed; all rows end here", exc_info=error)
        rows = self._running()
        self._prefills = []
        self._decoding = Decoding(self._model.net)
        self._end(rows, error)

    def _end(self, rows: list[Row], error: Exception) -> None:
        """Tell the rows, whose caches are gone already. Raises MemoryError where that does not help."""
        error.__traceback__ = None  # its frames hold arrays
        mx.clear_cache()
        if rows:
            self._send(Step([self._error(row, describe(error)) for row in rows]))
        if is_memory(error):
            self._short += 1
            if self._short >= GIVE_UP and not self._busy():
                raise Exhausted(f"out of memory in {self._short} steps in a row: {error}") from error


class Exhausted(MemoryError):
    """An engine without rows finds no memory."""


def most_tokens(rows: list[Row]) -> int:
    """Tokens of the row that comes to the most."""
    return max((row.job.total for row in rows), default=0)


def describe(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return f"there was not enough memory for this step: {text}" if is_memory(error) else text


def together(
    waiting: deque[Job], slots: int, chunk: int, fits: Callable[[int, int], bool] = lambda jobs, tokens: True
) -> list[Job]:
    """Take the head of the queue, and those behind it that fit into one chunk with it.

    Fitting counts the padding, and padding may cost half of the work at most (short prompts are cheap
    beside the pass itself, hence the constant). The others keep their places. fits(jobs, tokens): whether
    there is memory for so many more rows of which the longest comes to so many tokens; true of the head.
    """
    head = waiting.popleft()
    taken, longest, total = [head], len(head.prompt), len(head.prompt)
    most = head.total
    if longest == 1:
        return taken  # nothing to process before its first step
    for job in list(waiting):
        if len(taken) >= slots or not fits(len(taken) + 1, max(most, job.total)):
            break
        length = len(job.prompt)
        padded = (len(taken) + 1) * max(longest, length)
        if length > 1 and padded <= chunk and padded <= 1.5 * (total + length) + 64:
            taken.append(job)
            longest, total = max(longest, length), total + length
            most = max(most, job.total)
            waiting.remove(job)
    return taken
