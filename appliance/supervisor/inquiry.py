"""A question to an encoder, from the row it takes to its answer.

It is leased, drained, counted and charged as a generation is; what differs is that it comes back whole and
has no first token. The engine begins it at once and shares its time among all it holds, so there is no
Accepted.
"""

from __future__ import annotations

from collections.abc import Callable

from appliance import wire
from appliance.supervisor.asking import refusal
from appliance.supervisor.generation import Generation
from appliance.supervisor.ticket import Ticket, TicketSink

Vectors = wire.Embedded | wire.Ranked


class Inquiry(Generation):
    """`collect` comes back when `answer` is there. Raises ApiError as that of a generation does."""

    __slots__ = ("answer",)

    answer: Vectors | None

    def answered(self, answer: Vectors) -> None:
        self.answer = answer
        self._finish = "stop"
        self._end("ok")
        self._wake()


class InquirySink(TicketSink):
    """on_answered: before its end is written down."""

    __slots__ = ("_inquiry", "_on_answered")

    def __init__(
        self,
        ticket: Ticket,
        inquiry: Inquiry,
        on_accepted: Callable[[Generation], None],
        again: Callable[[Generation, Ticket], None],
        on_answered: Callable[[Generation, int], None],
    ) -> None:
        super().__init__(ticket, inquiry, on_accepted, again)
        inquiry.answer = None
        self._inquiry = inquiry
        self._on_answered = on_answered

    def answered(self, answer: Vectors | wire.Unanswered) -> None:
        if isinstance(answer, wire.Unanswered):
            self._inquiry.fail(refusal(answer))
        else:
            self._on_answered(self._inquiry, answer.tokens)
            self._inquiry.answered(answer)
