"""One answer as it comes: rows in from the engine, deltas out to one reader.

This is the hot path. A row costs one list append and, when the reader waits, one wake-up; there is no
task and no queue object per token. What a reader has not fetched yet is kept as pieces and handed over
as one delta, so a slow reader costs nothing but its own unread text, and that has a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

import msgspec

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor.asking import said
from appliance.supervisor.engine import Engine
from appliance.supervisor.record import NOBODY, Caller

UNREAD = 256 * 1024  # characters a streaming reader may leave unread
LIKELY = 8  # characters that a log-probability counts as; each takes a hundred bytes or so
PIECES = 512  # pieces kept apart before they are joined: a piece of three characters takes 60 bytes


class Delta(msgspec.Struct, frozen=True, gc=False):
    """What came since the last one.

    text: new text, may be empty on `finish`. tokens: completion tokens so far, in all. stop: the stop
    string that matched, if one did. more: in its order, reasoning before the text and calls behind it.
    """

    text: str
    tokens: int
    finish: wire.Finish | None = None
    stop: str | None = None
    more: wire.More | None = None


class Generation:
    """An accepted request. Iterate to the end, `cancel`, or use as an async context manager.

    Iteration raises ApiError when the engine dies or the row fails (after the text that came before),
    and when a bounded reader leaves more than `UNREAD` characters unread.
    """

    __slots__ = (
        "_engine",
        "_error",
        "_finish",
        "_first",
        "_last",
        "_loop",
        "_on_end",
        "_pieces",
        "_quiet",
        "_stop",
        "_unread",
        "_waiter",
        "accepted",
        "bounded",
        "cached_from",
        "cached_tokens",
        "caller",
        "engine_id",
        "known",
        "model",
        "prompt_tokens",
        "rid",
        "rows",
        "started",
        "tokens",
        "ttft",
    )

    def __init__(
        self,
        rid: int,
        model: str,
        engine: Engine,
        started: float,
        bounded: bool,
        on_end: Callable[[Generation, str], None],
        caller: Caller = NOBODY,
        known: bool = False,
    ) -> None:
        self.rid = rid
        self.model = model
        self.engine_id = engine.id
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.cached_from: str | None = None  # the slowest tier that gave some
        self.tokens = 0  # completion tokens so far
        self.started = started  # when the client asked, on the loop's clock
        self.accepted: float | None = None  # when the engine took it up
        self.rows = 1  # requests that the engine held at the first token
        self.caller = caller
        self.known = known  # its session had been seen before
        self.ttft: float | None = None  # seconds from then to the first token
        self.bounded = bounded
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._on_end: Callable[[Generation, str], None] | None = on_end
        self._pieces: list[str | tuple[str, wire.More]] = []
        self._unread = 0
        self._finish: wire.Finish | None = None
        self._stop: str | None = None
        self._error: ApiError | None = None
        self._last = False  # the delta with `finish` has been handed over
        self._quiet = False  # the reader wants the whole only
        self._waiter: asyncio.Future[None] | None = None

    # --- from the engine --------------------------------------------------------------------------

    def row(self, row: wire.Row) -> None:
        self.tokens = row.tokens
        if self.ttft is None:
            self.ttft = self._loop.time() - self.started
            self.rows = self._engine.leases
        text = row.text
        if row.more is not None:
            self._pieces.append((text, row.more))
            self._unread += len(text) + _length(row.more)
        elif text:
            self._pieces.append(text)
            self._unread += len(text)
            if len(self._pieces) > PIECES:
                self._pieces = _joined(self._pieces)
        if row.finish is not None:
            self._finished(row)
        elif self._unread > UNREAD and self.bounded:
            self._overflow()
        elif self._quiet or not (text or row.more is not None):
            return
        if self._waiter is not None:
            self._wake()

    def fail(self, error: ApiError) -> None:
        """The rest will not come."""
        self._error = error
        self._end(error.code)
        self._wake()

    def withdraw(self, error: ApiError) -> None:
        """Take it back from an engine that has not begun it."""
        self._engine.cancel(self.rid)
        self.fail(error)

    def _finished(self, row: wire.Row) -> None:
        if row.finish == "error":
            text = row.message or "the engine could not go on with this request and gave no reason"
            self._error = said(row.code or "engine_failed", text)
            self._end(self._error.code)
            return
        self._finish = row.finish
        self._stop = row.stop
        self._end("cancelled" if row.finish == "cancelled" else "ok")

    def _overflow(self) -> None:
        self._pieces.clear()
        text = f"client reads too slowly: more than {UNREAD} characters were left unread"
        self._error = ApiError("overloaded", text)
        self._engine.cancel(self.rid)
        self._end("overloaded")

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _end(self, outcome: str) -> None:
        on_end, self._on_end = self._on_end, None
        if self._error is not None:
            self._error.recorded = True
        if on_end is not None:
            on_end(self, outcome)

    # --- to the reader ----------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def ended(self) -> bool:
        """Finished, failed or cancelled; there may still be text to fetch."""
        return self._on_end is None

    def cancel(self) -> None:
        """Give the row back. A reader gets what came so far, with finish "cancelled". No-op at the end."""
        if self.ended:
            return
        self._finish = "cancelled"
        self._engine.cancel(self.rid)
        self._end("cancelled")
        self._wake()

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Delta:
        while not self._pieces and self._on_end is not None:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._take()

    def _take(self) -> Delta:
        """The next delta: pieces that are text alone come together, others one by one, all in order."""
        text = ""
        more: wire.More | None = None
        if self._pieces:
            pieces = self._pieces if len(self._pieces) == 1 else _joined(self._pieces)
            first, self._pieces = pieces[0], pieces[1:]
            text, more = (first, None) if isinstance(first, str) else first
            self._unread -= len(text) + (0 if more is None else _length(more))
            if self._pieces:
                return Delta(text, self.tokens, None, None, more)
        elif self._error is not None:
            raise self._error
        elif self._last:
            raise StopAsyncIteration
        self._last = self._finish is not None
        return Delta(text, self.tokens, self._finish, self._stop, more)

    async def collect(self) -> Delta:
        """The whole answer in one delta, with one wake-up at its end. Raises ApiError."""
        self._quiet = True
        self.bounded = False
        while self._on_end is not None:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None:
            raise self._error
        text = "".join(piece if isinstance(piece, str) else piece[0] for piece in self._pieces)
        mores = [piece[1] for piece in self._pieces if not isinstance(piece, str)]
        self._pieces = [(text, merged(mores))] if mores else [text]
        return self._take()

    async def __aenter__(self) -> Generation:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


def _length(more: wire.More) -> int:
    """In characters, as the limit for slow readers counts."""
    likely = sum(1 + len(one.top) for one in more.logprobs)
    return len(more.reasoning) + sum(len(call.arguments) for call in more.calls) + LIKELY * likely


def _joined(pieces: list[str | tuple[str, wire.More]]) -> list[str | tuple[str, wire.More]]:
    """The same, with neighbours that are text alone put together."""
    found: list[str | tuple[str, wire.More]] = []
    run: list[str] = []
    for piece in pieces:
        if isinstance(piece, str):
            run.append(piece)
            continue
        if run:
            found.append("".join(run))
            run = []
        found.append(piece)
    if run:
        found.append("".join(run))
    return found


def merged(mores: list[wire.More]) -> wire.More:
    """One after the other, as one."""
    warnings = [more.warning for more in mores if more.warning is not None]
    return wire.More(
        "".join(more.reasoning for more in mores),
        [call for more in mores for call in more.calls],
        [one for more in mores for one in more.logprobs],
        "; ".join(dict.fromkeys(warnings)) or None,
        max((more.reasoning_tokens for more in mores), default=0),
    )
