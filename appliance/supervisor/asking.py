"""Questions that an engine answers by number: its named sessions, tokens of a prompt, vectors, scores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

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

    def embed(
        self, inputs: list[str | list[int]], dimensions: int | None, truncate: bool, caller: str
    ) -> asyncio.Future[wire.Embedded | wire.Unanswered]:
        question = wire.Embed(self._next(), inputs, dimensions, truncate, caller)
        return self._ask(question)

    def rank(
        self, query: str, documents: list[str], instruction: str | None, truncate: bool, caller: str
    ) -> asyncio.Future[wire.Ranked | wire.Unanswered]:
        question = wire.Rank(self._next(), query, documents, instruction, truncate, caller)
        return self._ask(question)

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
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[question.number] = future
        future.add_done_callback(lambda _: self._open.pop(question.number, None))
        self._send(wire.encode(question))
        return future


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
        code = answer.code if answer.code in CODES else "internal_error"
        retry = 1.0 if CODES[code][0] == 503 else None
        raise ApiError(code, answer.message, param=answer.param, retry_after=retry, details=answer.details)
    return answer
