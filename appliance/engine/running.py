"""The rows on the device: prompts in work, and the batches that decode.

One turn is a decode step of every batch, its text sent in one frame while the next step computes, and then
one chunk of one prompt. A row that was begun always ends with a line that carries `finish`, whatever fails:
a fault ends the rows of its own batch or prompt, and no others.

What the prompt cache keeps of a row is cut while its caches are still whole: after each chunk, and when
the row ends, before it leaves its batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx

from appliance.engine import lines
from appliance.engine.beat import Gauge
from appliance.engine.decode import Decoding, Prefill, Row, stops
from appliance.engine.link import Closed
from appliance.engine.load import Model, is_memory
from appliance.engine.pricing import Batch
from appliance.engine.prompt import Job
from appliance.engine.reuse import Restored, Reuse
from appliance.wire import FromEngine, Step
from appliance.wire import Row as Line

log = logging.getLogger(__name__)

GIVE_UP = 3  # steps in a row that found no memory; a fresh process is the only help then


class Exhausted(MemoryError):
    """An engine without rows finds no memory."""


class Running:
    """Only for the decode thread."""

    def __init__(self, model: Model, reuse: Reuse, gauge: Gauge, send: Callable[[FromEngine], None]) -> None:
        self._model = model
        self._reuse = reuse
        self._gauge = gauge
        self._send = send
        self._fresh: list[Row] = []  # begun in this turn, with nothing restored
        self._prefills: list[Prefill] = []
        self._decoding = Decoding(model.net)
        self._turns = 0
        self._short = 0  # steps in a row that found no memory

    @property
    def rows(self) -> list[Row]:
        in_work = (row for prefill in self._prefills for row in prefill.rows)
        return [*self._decoding.rows, *in_work, *self._fresh]

    def prompts(self) -> Iterator[tuple[Row, int]]:
        """Rows whose prompts are being computed, and how many tokens of each are done."""
        for prefill in self._prefills:
            for row in prefill.rows:
                yield row, prefill.done
        for row in self._fresh:
            yield row, 0

    def batches(self, more: Sequence[Job] = ()) -> list[Batch]:
        """What is to be paid for: rows and the longest one's tokens, of each batch. more: rows to come."""
        totals = [*(row.job.total for row in self.rows), *(job.total for job in more)]
        return [Batch(len(totals), max(totals))] if totals else []

    def begin(self, row: Row, restored: Restored) -> None:
        """Take a row in. Those that begin in the same turn may share their chunk: see `gather`."""
        if restored.caches is None and not stops(row):
            self._fresh.append(row)
        else:
            net, bits = self._model.net, self._model.kv_bits
            self._prefills.append(Prefill(net, [row], bits, restored.caches, restored.tokens))

    def gather(self, chunk: int) -> None:
        """Make prefills of the rows that have just begun. Only batchable models begin several at once."""
        while self._fresh:
            taken = together(self._fresh, chunk)
            self._prefills.append(Prefill(self._model.net, taken, self._model.kv_bits))

    # -- one turn ------------------------------------------------------------------------------------

    def turn(self, chunk: int) -> None:
        if self._decoding.rows:
            self._gauge.enter("decode")
            try:
                self._decode(self._decoding)
            except Closed:
                raise
            except Exception as error:  # noqa: BLE001  prompts in work have caches of their own
                self._fail_decoding(self._decoding, error)
        if self._prefills:
            self._gauge.enter("prefill")
            self._prefill(chunk)
        self._turns += 1

    def _decode(self, batch: Decoding) -> None:
        rows = batch.rows
        last = all(row.primed and row.produced + 1 >= row.job.max_tokens for row in rows)
        ready = batch.step(last=last)
        self._short = 0
        self._gauge.advance()
        self._gauge.output_tokens += len(ready)
        found = [
            line
            for row, token in ready
            if (line := lines.newest(row, token, self._model.end_tokens)) is not None
        ]
        ended = {line.rid for line in found if line.finish is not None}
        for row in rows:
            if row.failed is not None and row.job.rid not in ended:
                ended.add(row.job.rid)
                found.append(lines.failed(row, row.failed))
        if found:
            self._send(Step(found))
        if ended:
            self._leave(batch, [row for row in rows if row.job.rid in ended])

    def _leave(self, batch: Decoding, rows: list[Row]) -> None:
        """Drop rows that have ended, once the prompt cache has what it wants of them."""
        for row in rows:
            self._cut(row, batch.cache, batch.place(row), batch.held(row))
        batch.keep([row for row in batch.rows if row not in rows])

    def _cut(self, row: Row, caches: list[object], place: int | None, tokens: list[int]) -> None:
        """The row has ended already, so that a fault of the prompt cache can only be told to the log."""
        if row.trail is None:
            return
        try:
            self._reuse.ended(row.trail, caches, place, tokens)
        except Exception as error:
            log.exception("what request %d computed cannot be kept", row.job.rid)
            error.__traceback__ = None  # its frames hold arrays

    def _prefill(self, chunk: int) -> None:
        """One chunk, of the prompts that are nearest to done; every other turn, of the oldest."""
        if self._turns % 2:
            prefill = self._prefills[0]
        else:
            prefill = min(self._prefills, key=lambda prefill: prefill.left)
        try:
            tokens = prefill.advance(chunk)
            for index, row in enumerate(prefill.rows):
                if row.trail is not None and tokens:
                    place = None if prefill.plain else index
                    self._reuse.grown(row.trail, prefill.cache, place, prefill.held(row))
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

    # -- the ways out --------------------------------------------------------------------------------

    def cancel(self, rid: int) -> Line | None:
        """Free what the request holds; its last line. None: it is not here, so it has just ended."""
        for prefill in self._prefills:
            for row in prefill.rows:
                if row.job.rid == rid:
                    if prefill.cache:  # a whole chunk at least, so it is here alone
                        self._cut(row, prefill.cache, None, prefill.held(row))
                    prefill.rows.remove(row)
                    if not prefill.rows:
                        self._prefills.remove(prefill)
                    return lines.cancelled(row)
        for row in self._decoding.rows:
            if row.job.rid == rid:
                self._leave(self._decoding, [row])
                return lines.cancelled(row)
        return None

    def _fail_decoding(self, batch: Decoding, error: Exception) -> None:
        """The batch is in an unknown state: end its rows, and start over with an empty one."""
        log.error("a step failed; its rows end here", exc_info=error)
        rows = batch.rows
        self._decoding = Decoding(self._model.net)
        self._end(rows, error)

    def fail(self, error: Exception) -> None:
        """Neither what decodes nor what joins it can be trusted: end all rows."""
        log.error("a turn failed; all rows end here", exc_info=error)
        rows = self.rows
        self._prefills, self._fresh = [], []
        self._decoding = Decoding(self._model.net)
        self._end(rows, error)

    def _end(self, rows: list[Row], error: Exception) -> None:
        """Tell the rows, whose caches are gone already. Raises MemoryError where that does not help."""
        error.__traceback__ = None  # its frames hold arrays
        mx.clear_cache()
        if rows:
            self._send(Step([lines.failed(row, lines.describe(error)) for row in rows]))
        if is_memory(error):
            self._short += 1
            if self._short >= GIVE_UP and not self.rows:
                raise Exhausted(f"out of memory in {self._short} steps in a row: {error}") from error


def together(rows: list[Row], chunk: int) -> list[Row]:
    """Take the first, and those behind it that fit into one chunk with it.

    Fitting counts the padding, and padding may cost half of the work at most (short prompts are cheap
    beside the pass itself, hence the constant). The others keep their places.
    """
    head = rows.pop(0)
    taken, longest, total = [head], len(head.job.prompt), len(head.job.prompt)
    if longest == 1:
        return taken  # nothing to process before its first step
    for row in list(rows):
        length = len(row.job.prompt)
        padded = (len(taken) + 1) * max(longest, length)
        if length > 1 and padded <= chunk and padded <= 1.5 * (total + length) + 64:
            taken.append(row)
            longest, total = max(longest, length), total + length
            rows.remove(row)
    return taken
