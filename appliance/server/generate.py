"""Runs the rows of one request and answers with them, whole or as a stream.

One row is the common case and the hot path: no task, no queue. Several rows run side by side, at most
`ABREAST` at a time, and write to the same connection as their tokens come. Whatever ends the handler,
a client that leaves included, cancels every row.

How to add an API family. Make a list of rows from the checked body (`rows.chat`), and an `Ask` that holds
them. For a whole answer call `whole` and shape what it gives. For a stream write a `Format`, name its
maker in `Ask.format`, and call `stream`; `chunks.Chunks` is the example. A format is made once per answer,
when the first row has begun, and sees in this order, and nothing else:

    opening(rows)               once, sent at once
    delta(index, delta)         each piece of a row, the last one (its `finish` is set) included
    closing(index, row)         once per row, right behind its last delta
    ending(rows)                once, when all rows are closed; or
    failure(error)              instead of it, at any point after the opening; then nothing more comes

Each gives the bytes to send, of as many whole events as it likes; empty bytes send nothing. What a reader
did not fetch in time comes as one delta, so a delta has any number of tokens. Within a delta the order is:
reasoning, text, calls; and a row's deltas may go back and forth between them. A format that must tell the
whole answer in its last event (Responses) keeps what it needs in `delta`.

Other ways out than Server-Sent Events call `first` and `answer` with an `Out` of their own; other ways in
(tool loops) set `Ask.opener`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sanic.request import Request

from appliance import wire
from appliance.errors import ApiError
from appliance.server.replies import as_api_error
from appliance.server.sse import EventStream
from appliance.skills.steps import Step, Told
from appliance.supervisor.record import NOBODY, Caller

if TYPE_CHECKING:
    from appliance.supervisor.generation import Delta
    from appliance.supervisor.router import Router

ABREAST = 8


class Source(Protocol):
    """A row that has begun: a `Generation`, or what stands for one. Iterate, or `collect`; never both."""

    model: str
    engine_id: str
    bounded: bool

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def cached_tokens(self) -> int: ...

    def __aiter__(self) -> AsyncIterator[Delta]: ...

    async def collect(self) -> Delta: ...

    def cancel(self) -> None: ...

    async def __aenter__(self) -> Source: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


# Called as `Router.open` is: (model, submit, *, bounded, caller, beside); `beside` is what it gave earlier.
Opener = Callable[..., Awaitable[Source]]


@dataclass(frozen=True)
class Ask:
    """One request, checked. Rows lie prompt by prompt, `per_prompt` of each.

    format: makes the format of a stream. opener: what rows are opened with, if not the router.
    """

    model: str | None
    rows: Sequence[wire.Submit]
    format: Callable[[Source], Format]
    per_prompt: int = 1
    caller: Caller = NOBODY
    opener: Opener | None = None


@dataclass(frozen=True)
class Row:
    """How one row ended.

    finish: stop or length. stop: the stop string that matched, if one did. called: it called tools.
    tokens: all that were generated, reasoning and calls included. cached_tokens: of the prompt.
    reasoning_tokens: of those generated; 0 where the engine does not tell.
    """

    finish: str
    stop: str | None
    called: bool
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Call:
    """A tool call. arguments: JSON, or what the model wrote instead of it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Answer(Row):
    """One row with all that it said."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    logprobs: list[wire.Logprob] = field(default_factory=list)
    warning: str | None = None
    steps: Sequence[Step] = ()  # calls of skills that were run on the way


T = TypeVar("T", bound=Row)


class Format(Protocol):
    """Turns one answer's rows into bytes; see the top of the module for the order of calls."""

    def opening(self, rows: int) -> bytes:
        """The first bytes, of so many rows, before the first token. Not empty."""
        ...

    def delta(self, index: int, delta: Delta) -> bytes:
        """The next piece of row `index`. The hot path: text alone (`more` is None) must stay cheap."""
        ...

    def closing(self, index: int, row: Row) -> bytes:
        """Row `index` has ended."""
        ...

    def ending(self, rows: Sequence[Row], per_prompt: int) -> bytes:
        """All have ended: usage, and what the family ends a stream with."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """The stream has begun and cannot go on."""
        ...


class Out(Protocol):
    """Where the bytes of a stream go."""

    def write(self, data: bytes) -> bool:
        """Send now. True: too much is unsent, and the caller must `await drain()` before the next."""
        ...

    async def drain(self) -> None: ...


async def first(router: Router, ask: Ask, *, bounded: bool = True) -> Source:
    """The first row, begun. Raises ApiError: until here a request can be refused with a status."""
    opener: Opener = ask.opener or router.open
    return await opener(ask.model, ask.rows[0], bounded=bounded, caller=ask.caller)


async def whole(router: Router, ask: Ask) -> tuple[Source, list[Answer]]:
    """Every row, run to its end; and the first one, for its model. The first error ends them all."""
    begun = await first(router, ask, bounded=False)
    async with begun:
        if len(ask.rows) == 1:
            return begun, [await _collect(begun)]
        return begun, await _abreast(router, ask, begun, lambda _, source: _collect(source))


async def stream(request: Request, router: Router, ask: Ask) -> None:
    """Answer as Server-Sent Events. Raises ApiError before the head is sent, never after."""
    begun = await first(router, ask)
    async with begun, EventStream(request) as events:
        form = ask.format(begun)
        await events.start(form.opening(len(ask.rows)))
        try:
            last = await answer(router, ask, begun, form, events)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            last = form.failure(as_api_error(request, error))
        await events.finish(last)


async def answer(router: Router, ask: Ask, begun: Source, form: Format, out: Out) -> bytes:
    """Write all rows as they come. Gives the last bytes, still to be sent. `opening` is the caller's.

    Raises what ends a row early; `form.failure` tells it to the reader.
    """
    if len(ask.rows) == 1:
        row, last = await _pump(begun, out, form, 0)
        return last + form.ending([row], ask.per_prompt)

    async def run(index: int, source: Source) -> Row:
        row, last = await _pump(source, out, form, index)
        if last and out.write(last):
            await out.drain()
        return row

    return form.ending(await _abreast(router, ask, begun, run), ask.per_prompt)


async def _abreast(
    router: Router,
    ask: Ask,
    begun: Source,
    run: Callable[[int, Source], Coroutine[Any, Any, T]],
) -> list[T]:
    """Run `begun` and the other rows side by side.

    Each follows the first: one answer comes from one model, also where a swap comes between its rows.
    """
    rows = ask.rows
    opener: Opener = ask.opener or router.open
    gate = asyncio.Semaphore(ABREAST - 1)

    async def later(index: int) -> T:
        async with gate:
            opening = opener(ask.model, rows[index], bounded=begun.bounded, caller=ask.caller, beside=begun)
            async with await opening as source:
                return await run(index, source)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(0, begun))]
            tasks += [group.create_task(later(index)) for index in range(1, len(rows))]
    except BaseExceptionGroup as failures:
        raise _earliest(failures) from None
    return [task.result() for task in tasks]


async def _collect(source: Source) -> Answer:
    last = await source.collect()
    more = last.more or wire.More()
    calls = _calls(more.calls)
    return Answer(
        **vars(_row(source, last, bool(calls), more.reasoning_tokens)),
        text=last.text,
        reasoning=more.reasoning,
        calls=calls,
        logprobs=more.logprobs,
        warning=more.warning,
        steps=more.steps if isinstance(more, Told) else (),
    )


async def _pump(source: Source, out: Out, form: Format, index: int) -> tuple[Row, bytes]:
    """Write a row's deltas as they come. Gives the row and its last events, still to be sent."""
    called, thought = False, 0
    async for delta in source:
        if delta.more is not None:
            called = called or bool(delta.more.calls)
            thought = max(thought, delta.more.reasoning_tokens)
        data = form.delta(index, delta)
        if delta.finish is not None:
            row = _row(source, delta, called, thought)
            return row, data + form.closing(index, row)
        if data and out.write(data):
            await out.drain()
    raise ApiError("engine_failed", "the engine ended this request without a word; try again", retry_after=1)


def _row(source: Source, last: Delta, called: bool, thought: int) -> Row:
    """A row from its last delta. Raises ApiError where it did not end by itself."""
    if last.finish not in ("stop", "length"):
        text = f"this request was ended early ({last.finish}); try again"
        raise ApiError("engine_failed", text, retry_after=1)
    prompt, cached = source.prompt_tokens, source.cached_tokens
    return Row(last.finish, last.stop, called, last.tokens, prompt, cached, thought)


def _calls(parts: Sequence[wire.CallPart]) -> list[Call]:
    """Whole calls from their pieces, in the order of their indices."""
    heads: dict[int, wire.CallPart] = {}
    arguments: dict[int, list[str]] = {}
    for part in parts:
        heads.setdefault(part.index, part)
        arguments.setdefault(part.index, []).append(part.arguments)
    return [Call(heads[i].id or "", heads[i].name or "", "".join(arguments[i])) for i in sorted(heads)]


def _earliest(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure to tell of: the earliest one that is not itself a group."""
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
