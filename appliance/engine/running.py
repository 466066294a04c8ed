"""The rows on the device: prompts in work, and the batches that decode.

One turn is a decode step of every batch (more of those whose steps are short), their text sent in one frame
while the next steps compute, and then one chunk of one prompt. A row that was begun always ends with a line
that carries `finish`, whatever fails: a fault ends the rows of its own batch or prompt, and no others.

What the prompt cache keeps of a row is cut while its caches are still whole: after each chunk, and when
the row ends, before it leaves its batch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import mlx.core as mx

from appliance.engine import lines
from appliance.engine.batches import Batches, priced
from appliance.engine.beat import Gauge
from appliance.engine.decode import Decoding
from appliance.engine.fairness import Fair
from appliance.engine.groups import UNMEASURED
from appliance.engine.load import Model, is_memory
from appliance.engine.pacing import MOST, Pace, pick
from appliance.engine.prefill import Prefill, Turn, stops
from appliance.engine.pricing import Batch
from appliance.engine.reuse import Restored, Reuse
from appliance.engine.row import Row
from appliance.wire import Configure, FromEngine, Step
from appliance.wire import Row as Line

log = logging.getLogger(__name__)

GIVE_UP = 3  # steps in a row that found no memory; a fresh process is the only help then


class Exhausted(MemoryError):
    """An engine without rows finds no memory."""


class Running:
    """Only for the decode thread."""

    def __init__(
        self,
        model: Model,
        reuse: Reuse,
        gauge: Gauge,
        fair: Fair,
        fits: Callable[[list[Batch]], bool],
        send: Callable[[FromEngine], None],
    ) -> None:
        """fits: whether there is memory for these batches, beside what is reserved for others."""
        self._model = model
        self._reuse = reuse
        self._gauge = gauge
        self._fair = fair
        self._fits = fits
        self._send = send
        self._pace = Pace()
        self._fresh: list[Row] = []  # begun in this turn, with nothing restored
        self._prefills: list[Prefill] = []
        self._decoding = Batches(model)
        self._clock: float | None = None  # when the batch before was read; None: nobody asks
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

    def batches(self) -> list[Batch]:
        """What is to be paid for."""
        return [*(priced(batch.rows) for batch in self._decoding.all), *self._prompt_batches()]

    def _prompt_batches(self) -> list[Batch]:
        works = [*(prefill.rows for prefill in self._prefills), *([row] for row in self._fresh)]
        return [priced(rows) for rows in works]

    def begin(self, row: Row, restored: Restored) -> None:
        """Take a row in. Those that begin in the same turn may share their chunk: see `gather`."""
        if restored.caches is None and not stops(row):
            self._fresh.append(row)
        else:
            net, bits = self._model.net, self._model.kv_bits
            known, done = restored.caches, restored.tokens
            self._prefills.append(Prefill(net, [row], bits, known, done, self._model.head))

    def gather(self, limits: Configure) -> None:
        """Make prefills of the rows that have just begun. Only batchable models begin several at once."""
        while self._fresh:
            rows, self._fresh = self._fresh, []
            others = self.batches()

            def fits(taken: list[Row], rest: list[Row], others: list[Batch] = others) -> bool:
                return self._fits([*others, priced(taken), *(priced([row]) for row in rest)])

            taken = together(rows, max(self._chunk(limits), min(MOST, limits.prefill_chunk)), fits)
            self._fresh = rows
            self._prefills.append(Prefill(self._model.net, taken, self._model.kv_bits, head=self._model.head))

    def _chunk(self, limits: Configure) -> int:
        beside = bool(self._decoding.all)
        return self._pace.chunk(limits.prefill_chunk, beside=beside, auto=limits.prefill_auto)

    # -- one turn ------------------------------------------------------------------------------------

    def turn(self, limits: Configure) -> None:
        if self._decoding.all:
            self._gauge.enter("decode")
            self._decode()
        if self._prefills:
            self._gauge.enter("prefill")
            alone = limits.prefill_auto and not self._decoding.all
            self._prefill(self._chunk(limits), limits.prefill_chunk if alone else 0)

    def _decode(self) -> None:
        """A step of each batch, and more of those whose steps are short."""
        batches = self._decoding.all
        self._clock = None
        if len(batches) == 1:
            return self._pass(batches)
        slowest = max(batch.share.seconds or 0.0 for batch in batches)
        due = {batch: batch.share.steps(slowest) for batch in batches}
        if not self._prefills:
            self._clock = time.perf_counter()
        for number in range(max(due.values())):
            # another pass may have ended or regrouped some of them
            self._pass([batch for batch in self._decoding.all if due.get(batch, 0) > number])
        return None

    def _pass(self, batches: list[Decoding]) -> None:
        """A step of each. The tokens of one are read while the device computes the others'."""
        found: list[Line] = []
        gone: list[tuple[Decoding, list[Row]]] = []
        for batch in list(batches):
            try:
                told, ended = self._step(batch)
            except Exception as error:  # noqa: BLE001  other batches and prompts have caches of their own
                self._fail_batch(batch, error)
                continue
            self._note(batch)
            found += told
            if ended:
                gone.append((batch, ended))
        if found:
            self._send(Step(found))
        for batch, ended in gone:
            self._leave(batch, ended)
        if gone:
            self._arrange()

    def _note(self, batch: Decoding) -> None:
        """Batches are computed one after the other, so what passed since the last one was read is this one's.

        Not beside a prompt in work: its chunk waits for all of them.
        """
        if self._clock is not None:
            now = time.perf_counter()
            batch.share.note(now - self._clock)
            self._clock = now

    def _step(self, batch: Decoding) -> tuple[list[Line], list[Row]]:
        """What there is to tell of a batch, and which of its rows have ended."""
        rows = batch.rows
        if len(self._decoding.all) == 1 and batch.opens:
            ready = batch.first()
        else:
            last = all(row.primed and not row.read and row.produced + 1 >= row.job.max_tokens for row in rows)
            ready = batch.step(last=last)
            self._short = 0
        self._gauge.advance()
        self._gauge.output_tokens += len(ready)
        found = []
        for row, token in ready:
            self._fair.charge(row.job.caller, 1)
            found += lines.newest(row, token, self._model.end_tokens)
        for line in found:
            if line.more is not None and line.more.warning is not None:
                self._gauge.tool_failures += 1
        ended = {line.rid for line in found if line.finish is not None}
        for row in rows:
            if row.failed is not None and row.job.rid not in ended:
                ended.add(row.job.rid)
                found.append(lines.failed(row, row.failed))
        return found, [row for row in rows if row.job.rid in ended] if ended else []

    def _prefill(self, chunk: int, most: int) -> None:
        """A chunk of one prompt; up to `most` tokens where nothing is left then."""
        prefill = self._prefills[
            pick([prefill.left for prefill in self._prefills], [prefill.waited for prefill in self._prefills])
        ]
        for other in self._prefills:
            other.waited = 0 if other is prefill else other.waited + 1
        try:
            pending = [batch.pending for batch in self._decoding.all]
            turn = Turn(chunk, most, self._joint(prefill), behind=pending, alone=not pending)
            tokens = prefill.advance(turn)
            self._pace.note(prefill.width, prefill.seconds)
            for index, row in enumerate(prefill.rows):
                if row.trail is not None and tokens:
                    place = None if prefill.plain else index
                    self._reuse.grown(row.trail, prefill.kept, place, prefill.held(row))
            made = None if prefill.left else Decoding.of(self._model.net, prefill)
        except Exception as error:
            log.exception("a prefill of %d prompts failed", len(prefill.rows))
            self._prefills.remove(prefill)
            rows, prefill.cache = prefill.rows, []
            self._end(rows, error)
            return
        self._gauge.prompt_tokens += tokens
        self._gauge.advance()
        if made is not None:
            self._gauge.prompt_tokens += len(prefill.rows)  # the last of each goes through with the rest
            self._prefills.remove(prefill)
            self._decoding.all.append(made)
            self._arrange()

    def _joint(self, prefill: Prefill) -> int:
        """For how many tokens the last layer, of which a chunk computes little, costs no more than a step."""
        model, speed = self._model, self._pace.speed
        if model.head is None or model.cost is UNMEASURED or speed is None:
            return 0
        return int(model.cost.step(1, prefill.done) * speed * model.head.layers)

    def _arrange(self) -> None:
        self._decoding.arrange(lambda batches: self._fits([*batches, *self._prompt_batches()]))

    # -- the ways out --------------------------------------------------------------------------------

    def _leave(self, batch: Decoding, rows: list[Row]) -> None:
        """Drop rows that have ended, once the prompt cache has what it wants of them."""
        for row in rows:
            self._cut(row, batch.cache, batch.place(row), batch.held(row))
        self._decoding.remove(batch, rows)

    def _cut(self, row: Row, caches: list[object], place: int | None, tokens: list[int]) -> None:
        """The row has ended already, so that a fault of the prompt cache can only be told to the log."""
        if row.trail is None:
            return
        try:
            self._reuse.ended(row.trail, caches, place, tokens)
        except Exception as error:
            log.exception("what request %d computed cannot be kept", row.job.rid)
            error.__traceback__ = None  # its frames hold arrays

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
        if (found := self._decoding.of(rid)) is None:
            return None
        batch, row = found
        self._leave(batch, [row])
        self._arrange()
        return lines.cancelled(row)

    def _fail_batch(self, batch: Decoding, error: Exception) -> None:
        """It is in an unknown state: end its rows."""
        log.error("a step failed; its rows end here", exc_info=error)
        self._decoding.all.remove(batch)
        self._end(batch.rows, error)

    def fail(self, error: Exception) -> None:
        """Neither what decodes nor what joins it can be trusted: end all rows."""
        log.error("a turn failed; all rows end here", exc_info=error)
        rows = self.rows
        self._prefills, self._fresh = [], []
        self._decoding = Batches(self._model)
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


def together(rows: list[Row], chunk: int, fits: Callable[[list[Row], list[Row]], bool]) -> list[Row]:
    """Take the first, and those behind it that fit into one chunk with it.

    Fitting counts the padding, and padding may cost half of the work at most (short prompts are cheap
    beside the pass itself, hence the constant). The others keep their places. fits(taken, rest): whether
    there is memory for the taken as one batch, and the rest each alone.
    """
    taken = [rows.pop(0)]
    longest = total = len(taken[0].job.prompt)
    if longest == 1:
        return taken  # nothing to process before its first step
    for row in list(rows):
        length = len(row.job.prompt)
        padded = (len(taken) + 1) * max(longest, length)
        if length == 1 or padded > chunk or padded > 1.5 * (total + length) + 64:
            continue
        if fits([*taken, row], [other for other in rows if other is not row]):
            taken.append(row)
            longest, total = max(longest, length), total + length
            rows.remove(row)
    return taken
