"""Questions that an engine answers by number: its named sessions, tokens of a prompt, vectors, scores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from appliance import wire
from appliance.errors import CODES, ApiError

T = TypeVar("T")
Question = wire.ListSessions | wire.DropSession | wire.Count | wire.Embed | wire.Rank
Answer = wire.Sessions | wire.Counted | wire.Embedded | wire.Ranked | wire.Unanswered


class Asking:
    """Futures by number. All on the event loop; each ends with an answer, or is cancelled with the engine."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._number = 0

    def sessions(self) -> asyncio.Future[wire.Sessions]:
        return self._ask(wire.ListSessions(self._next()))

    def drop(self, name: str | None) -> asyncio.Future[wire.Sessions]:
        """name None: all of them."""
        return self._ask(wire.DropSession(self._next(), name))

    def count(self, submit: wire.Submit) -> asyncio.Future[wire.Counted | wire.Unanswered]:
        return self._ask(wire.Count(self._next(), submit))

    def put(
        self, question: wire.Embed | wire.Rank
    ) -> asyncio.Future[wire.Embedded | wire.Ranked | wire.Unanswered]:
        """`question.number` is ignored and given here. Cancelling the future takes the question back.

        Raises wire.WireError, or what msgspec says of odd values.
        """
        return self._ask(msgspec.structs.replace(question, number=self._next()))

    def answered(self, message: Answer) -> None:
        future = self._open.pop(message.number, None)
        if future is not None and not future.done():  # its asker may have gone
            future.set_result(message)

    def lose(self) -> None:
        """The engine is gone: nobody waits in vain."""
        while self._open:
            _, future = self._open.popitem()
            future.cancel()

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _ask(self, question: Question) -> asyncio.Future[Any]:
        frame = wire.encode(question)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[question.number] = future
        future.add_done_callback(lambda _: self._ended(question))
        self._send(frame)
        return future

    def _ended(self, question: Question) -> None:
        """Answered, or its asker has gone: then an encoder need not work on it any more."""
        given_up = self._open.pop(question.number, None) is not None
        if given_up and isinstance(question, wire.Embed | wire.Rank):
            self._send(wire.encode(wire.Cancel(question.number)))


async def answered(future: asyncio.Future[T | wire.Unanswered]) -> T:
    """What an engine says to a question. Raises ApiError where it cannot, or is gone before it does."""
    try:
        await asyncio.wait([future])
    except asyncio.CancelledError:
        future.cancel()
        raise
    if future.cancelled():
        text = "the engine ended before it answered; try again"
        raise ApiError("engine_failed", text, retry_after=1)
    answer = future.result()
    if isinstance(answer, wire.Unanswered):
        raise refusal(answer)
    return answer


def refusal(answer: wire.Unanswered) -> ApiError:
    """What a client hears of it."""
    return said(answer.code, answer.message, param=answer.param, details=answer.details)


def said(code: str, message: str, **more: Any) -> ApiError:
    """An error by the code that an engine gives it. One that does not exist is a fault of ours."""
    code = code if code in CODES else "internal_error"
    return ApiError(code, message, retry_after=1.0 if CODES[code][0] == 503 else None, **more)
