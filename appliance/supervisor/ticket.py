"""One request on its way to an engine: waiting in the queue, or submitted and not yet accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from appliance import wire
from appliance.errors import CODES, ApiError
from appliance.supervisor.engine import Engine
from appliance.supervisor.generation import Generation
from appliance.supervisor.record import NOBODY, Caller
from reconciler.observed import Role


@dataclass(eq=False)
class Ticket:
    """number: order of arrival, kept when it is queued again. name: None for unnamed requests, which
    follow the active model. deadline: until when an engine must have begun it, on the loop's clock, never
    extended. beside: the first row of the same request, whose engine it follows. visit: it wants to be shown
    the engine, not to run there."""

    number: int
    name: str | None
    submit: wire.Submit
    bounded: bool
    opened: float
    deadline: float
    future: asyncio.Future[Generation | Engine]
    caller: Caller = NOBODY
    beside: Generation | None = field(default=None, repr=False)
    visit: bool = False
    question: wire.Embed | wire.Rank | None = field(default=None, repr=False)  # instead of `submit`
    target: str = ""  # the queue it belongs to, once resolved
    model: str = ""  # key of the routing table, once resolved
    known: bool = False  # its session was under way when it was last looked at
    queued: bool = False
    timer: asyncio.TimerHandle | None = None
    generation: Generation | None = field(default=None, repr=False)

    @property
    def role(self) -> Role:
        """What the model must be for."""
        if self.question is None:
            return "chat"
        return "embedding" if isinstance(self.question, wire.Embed) else "rerank"

    def settle(self, outcome: Generation | Engine | ApiError) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.future.done():  # its task was cancelled; `abandon` is on its way
            return
        if isinstance(outcome, ApiError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class TicketSink:
    """Answers to one try of a ticket. Every try has a rid of its own, so late answers to an earlier one
    find nobody."""

    __slots__ = ("_again", "_generation", "_on_accepted", "_ticket", "row")

    def __init__(
        self,
        ticket: Ticket,
        generation: Generation,
        on_accepted: Callable[[Generation], None],
        again: Callable[[Generation, Ticket], None],
    ) -> None:
        self._ticket = ticket
        self._generation = generation
        self._on_accepted = on_accepted
        self._again = again
        self.row = generation.row  # straight through: the hot path

    def accepted(self, message: wire.Accepted) -> None:
        self._generation.prompt_tokens = message.prompt_tokens
        self._generation.cached_tokens = message.cached_tokens
        self._generation.cached_from = message.cached_from
        self._on_accepted(self._generation)
        self._ticket.settle(self._generation)

    def refused(self, message: wire.Refused) -> None:
        code = message.code if message.code in CODES else "internal_error"
        retry = 1.0 if CODES[code][0] == 503 else None
        error = ApiError(
            code, message.message, param=message.param, retry_after=retry, details=message.details
        )
        self._generation.fail(error)
        self._ticket.settle(error)

    def lost(self, error: ApiError) -> None:
        self._generation.fail(error)

    def returned(self) -> None:
        self._ticket.generation = None
        self._again(self._generation, self._ticket)
