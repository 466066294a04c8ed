"""What an engine of an encoder does with its life: tokenise, compute slice by slice, answer.

There is no decode loop here and nothing is kept between questions. A thread tokenises, the main thread
computes; between two slices it looks at what came in, so a question that was taken back costs one slice at
most. Every question is answered once: by vectors or scores, or by Unanswered. A fault ends the questions of
its own slice, and no others; an engine that finds no memory several times in a row ends, for a fresh process
is the only help then.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from appliance.engine import freed
from appliance.engine.beat import Gauge
from appliance.engine.encoders.load import Model
from appliance.engine.encoders.tokens import Item
from appliance.engine.encoders.work import Job, Slice, Work
from appliance.engine.intake import Cancelled, Command, Intake, Stop
from appliance.engine.link import Link
from appliance.engine.prompt import Refusal
from appliance.engine.reading import is_memory
from appliance.engine.weights import BadModel
from appliance.wire import (
    Configure,
    Count,
    DropSession,
    Embed,
    Embedded,
    ListSessions,
    Loaded,
    Rank,
    Ranked,
    Sessions,
    Unanswered,
)

log = logging.getLogger(__name__)

Question = Embed | Rank
MOST_CPU, MOST_GPU = 2048, 8192  # tokens of a slice: more is no faster (measured), and takes memory
LEAST = 128
SLICE = 0.5  # seconds that a slice may take: what others wait, and what a cancelled question may cost
GIVE_UP = 3  # slices in a row that found no memory
NOT_FINITE = "the model computed numbers that are none (NaN or infinite)"
TIDY_AFTER = 2.0  # seconds without work after which freed buffers are given back


@dataclass(frozen=True)
class Prepared:
    """A question, tokenised; or why it cannot be."""

    question: Question
    outcome: list[Item] | Refusal


class Tokenising:
    """A thread of its own: hundreds of long texts take a while. on_done: called there."""

    def __init__(self, model: Model, limit: int, done: queue.SimpleQueue[Any]) -> None:
        self._model = model
        self.limit = limit  # replaced whole, read by the thread
        self._done = done
        self._work: queue.SimpleQueue[Question] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="tokenise", daemon=True).start()

    def put(self, question: Question) -> None:
        self._work.put(question)

    def _run(self) -> None:
        while True:
            question = self._work.get()
            try:
                outcome: list[Item] | Refusal = self._read(question)
            except Refusal as refusal:
                outcome = refusal
            except Exception as error:  # noqa: BLE001  tokenizers raise their own kinds; one question must not end all
                text = f"the texts cannot be tokenised: {type(error).__name__}: {error}"
                outcome = Refusal("invalid_request", text)
            self._done.put(Prepared(question, outcome))

    def _read(self, question: Question) -> list[Item]:
        model, limit = self._model, self.limit
        if isinstance(question, Rank):
            return model.pairs(
                question.query, question.documents, question.instruction, limit, truncate=question.truncate
            )
        most = question.dimensions
        if most is not None and not 0 < most <= model.width:
            raise Refusal(
                "invalid_request",
                f"dimensions: must be from 1 to {model.width}, found {most}",
                param="dimensions",
            )
        return model.tokens.texts(question.inputs, limit, truncate=question.truncate)


class Loop:
    def __init__(self, model: Model, link: Link, intake: Intake, gauge: Gauge) -> None:
        self._model, self._link, self._gauge = model, link, gauge
        self._intake = intake
        self._inbox: queue.SimpleQueue[Any] = intake.inbox  # of `Prepared` too
        self._work = Work()
        self._preparing: set[int] = set()
        self._tokenising = Tokenising(model, model.context_max, self._inbox)
        self._pace = 0.0  # seconds per token, as measured; 0: not yet
        self._limits: Configure | None = None
        self._short = 0
        self._stopping = False

    def run(self) -> None:
        """Serve until Stop. Raises MemoryError where slices find none again and again."""
        while True:
            self._take()
            if self._stopping:
                return
            if len(self._work):
                self._gauge.work()
                self._turn()

    # -- what comes in -------------------------------------------------------------------------------

    def _take(self) -> None:
        """Everything that is there; with nothing to do, wait for it."""
        while True:
            try:
                self._note(self._inbox.get_nowait() if len(self._work) else self._wait())
            except queue.Empty:
                return
            if self._stopping:
                return

    def _wait(self) -> Command | Prepared:
        worked = self._gauge.rest()
        self._gauge.rows, self._gauge.waiting = 0, len(self._preparing)
        self._gauge.enter("idle")
        if worked:
            try:
                soon: Command | Prepared = self._inbox.get(timeout=TIDY_AFTER)
                return soon
            except queue.Empty:
                freed.release()
        late: Command | Prepared = self._inbox.get()
        return late

    def _note(self, message: Command | Prepared | Question) -> None:
        if isinstance(message, Prepared):
            self._prepared(message)
        elif isinstance(message, Embed | Rank):
            self._preparing.add(message.number)
            self._tokenising.put(message)
        elif isinstance(message, Cancelled):
            self._preparing.discard(message.rid)
            self._work.take_back(message.rid)
        elif isinstance(message, ListSessions | DropSession):
            self._link.send(Sessions(message.number, []))  # nothing is kept here
        elif isinstance(message, Count):
            text = "this model computes vectors or scores; only chat models count a prompt"
            self._link.send(Unanswered(message.number, "invalid_request", text))
        elif isinstance(message, Stop):
            self._stopping = True
        self._configure()

    def _configure(self) -> None:
        limits = self._intake.limits
        if limits is self._limits:
            return
        self._limits = limits
        freed.keep(limits.buffer_cache)
        if limits.buffer_cache == 0:
            freed.release()
        self._tokenising.limit = min(self._model.context_max, limits.context or self._model.context_max)

    def _prepared(self, message: Prepared) -> None:
        question, outcome = message.question, message.outcome
        if question.number not in self._preparing:
            return  # its asker has gone
        self._preparing.discard(question.number)
        if isinstance(outcome, Refusal):
            self._refuse(question.number, outcome.code, outcome.message, outcome)
            return
        ranks = isinstance(question, Rank)
        dimensions = question.dimensions if isinstance(question, Embed) else None
        job = Job(question.number, question.caller, outcome, self._model.width, dimensions, ranks)
        self._work.add(job)
        self._finish(job)  # of no input at all

    # -- what goes out -------------------------------------------------------------------------------

    def _turn(self) -> None:
        gauge = self._gauge
        gauge.enter("prefill")
        gauge.rows, gauge.waiting = len(self._work), len(self._preparing)
        part = self._work.next(self._budget())
        items = part.items
        began = time.monotonic()
        try:
            values = self._model.run(items)
        except Exception as error:  # noqa: BLE001  whatever it is, those who asked must hear of it
            self._failed(part, error)
            return
        self._short = 0
        padded = len(items) * max(map(len, items))
        pace = (time.monotonic() - began) / padded
        self._pace = pace if self._pace == 0 else 0.7 * self._pace + 0.3 * pace
        gauge.prompt_tokens += sum(map(len, items))
        gauge.advance()
        finite = [bool(np.isfinite(row).all()) for row in values]
        broken = {job for (job, _), well in zip(part.rows, finite, strict=True) if not well}
        for (job, index), found in zip(part.rows, values, strict=True):
            job.put(index, found)
        for job in part.jobs:
            if job in broken:
                self._drop(job, NOT_FINITE)
            else:
                self._finish(job)

    def _budget(self) -> int:
        """Tokens of a slice: what takes half a second at the pace that was measured."""
        most = MOST_GPU if mx.default_device() != mx.cpu else MOST_CPU
        return most if self._pace == 0 else max(LEAST, min(most, int(SLICE / self._pace)))

    def _finish(self, job: Job) -> None:
        if job.missing:
            return
        self._work.drop(job)
        if job.ranks:
            self._link.send(Ranked(job.number, [float(score) for score in job.found[:, 0]], job.tokens))
            return
        vectors = job.found
        if job.dimensions is not None and job.dimensions < job.width:
            vectors = vectors[:, : job.dimensions]
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            if not np.isfinite(vectors).all():  # all of the first numbers are zero
                text = f"an input has no direction in its first {job.dimensions} dimensions; ask for more"
                self._refuse(job.number, "invalid_request", text, param="dimensions")
                return
        data = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
        self._link.send(Embedded(job.number, vectors.shape[1], data, job.tokens))

    def _failed(self, part: Slice, error: Exception) -> None:
        log.error("a slice of %d inputs failed", len(part.rows), exc_info=error)
        for job in part.jobs:
            self._drop(job, f"the model failed on this request: {type(error).__name__}: {error}")
        mx.clear_cache()
        if is_memory(error):
            self._short += 1
            if self._short >= GIVE_UP:
                raise MemoryError(f"out of memory in {self._short} slices in a row: {error}") from error

    def _drop(self, job: Job, why: str) -> None:
        log.error("question %d failed: %s", job.number, why)
        self._work.drop(job)
        self._refuse(job.number, "engine_failed", why)

    def _refuse(
        self, number: int, code: str, text: str, refusal: Refusal | None = None, param: str | None = None
    ) -> None:
        details = None if refusal is None else refusal.details
        param = param if refusal is None else refusal.param
        self._link.send(Unanswered(number, code, text, param, details))


def warm(model: Model, gauge: Gauge) -> None:
    """The first passes: compile kernels, and see that numbers come out. Raises BadModel."""
    zeros = np.zeros(8, dtype=np.int32)
    try:
        model.run([Item(zeros)])
        gauge.advance()
        values = model.run([Item(zeros), Item(zeros[:5])])
        gauge.advance()
    except Exception as error:  # the model runs here for the first time
        if is_memory(error):
            raise BadModel(
                "out_of_memory", f"no memory for a first pass: {error}", permanent=False
            ) from error
        raise BadModel(
            "unsupported_model", f"the model fails on its first tokens: {type(error).__name__}: {error}"
        ) from error
    if not np.isfinite(values).all():
        raise BadModel("corrupt_weights", NOT_FINITE)
    freed.release()
    mx.reset_peak_memory()


def loaded(model: Model, seconds: float, blas: str | None) -> Loaded:
    metal = mx.metal.is_available()
    backend = "cpu" if mx.default_device() == mx.cpu else "metal" if metal else "cuda"
    return Loaded(
        model_type=model.model_type,
        load_s=seconds,
        weights_bytes=model.weights_bytes,
        active_bytes=mx.get_active_memory(),
        context_max=model.context_max,
        batchable=True,
        batch_why=None,
        backend=backend,
        blas=blas,
        working_set_bytes=int(mx.device_info().get("max_recommended_working_set_size", 0)) if metal else 0,
        role=model.role,
        dimensions=model.width if model.role == "embedding" else None,
    )
