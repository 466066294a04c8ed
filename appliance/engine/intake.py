"""Between the reading thread and the decode thread: a thread that renders and tokenises.

Tokenising a long prompt takes seconds; neither decoding nor reading may wait for it. The reading thread
hands submissions in and never blocks or sends; this thread refuses what cannot run and passes on what can,
which is Accepted only when it starts. A Cancel finds its request wherever it is, since both sides look
under one lock.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, replace

from appliance.engine import prompt
from appliance.engine.constraint import bounds
from appliance.engine.constraint import plan as following
from appliance.engine.constraint.compiler import Compiler
from appliance.engine.link import Link
from appliance.engine.pricing import FREE, Price
from appliance.engine.template import Template
from appliance.wire import (
    Configure,
    Count,
    Counted,
    DropSession,
    Embed,
    ListSessions,
    Rank,
    Refused,
    Row,
    Step,
    Submit,
    Unanswered,
    WireError,
)

WAITING_LIMIT = 1024  # requests; the parent's own queue is far shorter


@dataclass(frozen=True)
class Cancelled:
    rid: int


@dataclass(frozen=True)
class Stop:
    pass


@dataclass(frozen=True)
class Configured:
    """Limits have changed. An idle engine must hear of it: it may have to give memory back."""


@dataclass(frozen=True)
class Woken:
    """Something that was waited for is there: what a request needs of the disk has been read."""


Command = prompt.Job | Cancelled | Configured | Stop | Woken | ListSessions | DropSession | Embed | Rank


@dataclass(frozen=True)
class Reader:
    """What preparing needs to know of a loaded model."""

    template: Template
    vocabulary: int
    compiler: Compiler
    price: Price = FREE


class Intake:
    def __init__(self, link: Link) -> None:
        self.inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self.limits = Configure(context=0)  # replaced whole, read by all threads
        self.reader: Reader | None = None  # set once the model is loaded
        self.encodes = False  # the model is an encoder: it answers questions and takes no request
        self._configured = False
        self._link = link
        self._work: queue.SimpleQueue[Submit | Count] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._preparing: dict[int, bool] = {}  # rid -> cancelled meanwhile
        usual = threading.stack_size(bounds.STACK)
        threading.Thread(target=self._run, name="intake", daemon=True).start()
        threading.stack_size(usual)

    @property
    def preparing(self) -> int:
        return len(self._preparing)

    @property
    def unread(self) -> int:
        """Requests that the decode thread has not taken yet; a Cancel among them may count as one."""
        return self.preparing + self.inbox.qsize()

    def configure(self, limits: Configure) -> None:
        """New limits and defaults, for every request that is prepared from now on."""
        with self._lock:
            self.limits, self._configured = limits, True
        self.inbox.put(Configured())

    def open(self, reader: Reader, context_max: int) -> None:
        """The model is there. Until it is configured, its own limit is the ceiling."""
        with self._lock:
            if not self._configured:
                self.limits = Configure(context=context_max)
        self.reader = reader

    def submit(self, submit: Submit) -> None:
        """Take one in; raises WireError where the number still belongs to another."""
        with self._lock:
            if submit.rid in self._preparing:
                raise WireError(f"request number {submit.rid} is in use")
            self._preparing[submit.rid] = False
        self._work.put(submit)

    def count(self, question: Count) -> None:
        """Answered in its turn, by Counted or Unanswered."""
        self._work.put(question)

    def cancel(self, rid: int) -> None:
        with self._lock:
            if rid in self._preparing:
                self._preparing[rid] = True
                return
        self.inbox.put(Cancelled(rid))

    def _run(self) -> None:
        while True:
            submit = self._work.get()
            if isinstance(submit, Count):
                self._link.send(self._count(submit))
                continue
            try:
                job = self._prepare(submit)
            except prompt.Refusal as refusal:
                with self._lock:
                    del self._preparing[submit.rid]
                self._link.send(
                    Refused(submit.rid, refusal.code, refusal.message, refusal.param, refusal.details)
                )
                continue
            with self._lock:
                cancelled = self._preparing.pop(submit.rid)
                if not cancelled:
                    self.inbox.put(job)
            if cancelled:
                self._link.send(Step([Row(submit.rid, "", 0, "cancelled")]))

    def _count(self, question: Count) -> Counted | Unanswered:
        try:
            reader = self._loaded()
            counted = prompt.count(question.submit, self.limits, reader.template, reader.vocabulary)
            return Counted(question.number, counted)
        except prompt.Refusal as refusal:
            code, message = refusal.code, refusal.message
            return Unanswered(question.number, code, message, refusal.param, refusal.details)
        except Exception as error:  # noqa: BLE001  as in `_prepare`
            unread = unreadable(error)
            return Unanswered(question.number, unread.code, unread.message)

    def _loaded(self) -> Reader:
        if self.encodes:
            raise prompt.Refusal("invalid_request", "this model computes vectors or scores, and no text")
        if self.reader is None:
            raise prompt.Refusal("no-model-loaded", "the model is not loaded yet")
        return self.reader

    def _prepare(self, submit: Submit) -> prompt.Job:
        reader = self._loaded()
        if self.unread > WAITING_LIMIT:
            raise prompt.Refusal("overloaded", f"more than {WAITING_LIMIT} requests are waiting")
        try:
            limits = self.limits
            job = prompt.prepare(submit, limits, reader.template, reader.vocabulary)
            prompt.check_memory(job, submit, limits, reader.price)
            follows = following.make(submit, limits, job, reader.compiler, reader.template.tokenizer)
            return job if follows is None else replace(job, guiding=follows)
        except prompt.Refusal:
            raise
        except Exception as error:  # tokenizers raise their own kinds; one request must not end all
            raise unreadable(error) from error


def unreadable(error: Exception) -> prompt.Refusal:
    return prompt.Refusal(
        "invalid_request", f"the prompt cannot be tokenised: {type(error).__name__}: {error}"
    )
