"""Runs the rows of one request and answers with them, whole or as a stream.

One row is the common case and the hot path: no task, no queue. Several rows run side by side, at most
`ABREAST` at a time, and write to the same connection as their tokens come. Whatever ends the handler,
a client that leaves included, cancels every row.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sanic.request import Request

from appliance import wire
from appliance.errors import ApiError
from appliance.server.chunks import Chunks, Family, Head, text_bytes, usage_of
from appliance.server.replies import as_api_error
from appliance.server.sse import EventStream
from appliance.supervisor.record import NOBODY, Caller

if TYPE_CHECKING:
    from appliance.supervisor.generation import Delta, Generation
    from appliance.supervisor.router import Router

ABREAST = 8
_ID = {"chat": "chatcmpl-", "text": "cmpl-"}


@dataclass(frozen=True)
class Ask:
    """One request, checked. Rows lie prompt by prompt, `per_prompt` of each."""

    family: Family
    model: str | None
    rows: Sequence[wire.Submit]
    per_prompt: int = 1
    include_usage: bool = False
    caller: Caller = NOBODY

    def head(self, generation: Generation) -> Head:
        return Head(
            family=self.family,
            id=_ID[self.family] + secrets.token_hex(12),
            created=int(time.time()),
            model=generation.model,
            engine_id=generation.engine_id,
            usage=self.include_usage,
        )


@dataclass(frozen=True)
class Row:
    """What became of one row. text: all of it, or what a stream had left to send."""

    text: str
    tokens: int
    finish: str
    prompt_tokens: int
    cached_tokens: int


async def whole(router: Router, ask: Ask) -> tuple[Head, list[Row]]:
    """Every row, run to its end. The first error ends them all."""
    first = await router.open(ask.model, ask.rows[0], bounded=False, caller=ask.caller)
    head = ask.head(first)
    async with first:
        if len(ask.rows) == 1:
            return head, [await _collect(first)]
        return head, await _abreast(router, ask, first, lambda _, generation: _collect(generation))


async def stream(request: Request, router: Router, ask: Ask) -> None:
    """Answer as Server-Sent Events. Raises ApiError before the head is sent, never after."""
    first = await router.open(ask.model, ask.rows[0], caller=ask.caller)
    async with first, EventStream(request) as events:
        chunks = Chunks(ask.head(first))
        await events.start(chunks.opening(len(ask.rows)))

        async def run(index: int, generation: Generation) -> Row:
            row, last = await _pump(generation, events, chunks, index)
            if events.write(last):
                await events.drain()
            return row

        last = b""
        try:
            if len(ask.rows) == 1:
                row, last = await _pump(first, events, chunks, 0)
                rows = [row]
            else:
                rows = await _abreast(router, ask, first, run)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            await events.fail(as_api_error(request, error))
        else:
            await events.finish(last + chunks.ending(usage(rows, ask.per_prompt)))


def usage(rows: Sequence[Row], per_prompt: int) -> dict[str, Any]:
    """Tokens of a prompt count once, however many choices it has."""
    prompts = rows[::per_prompt]
    return usage_of(
        sum(row.prompt_tokens for row in prompts),
        sum(row.tokens for row in rows),
        sum(row.cached_tokens for row in prompts),
    )


async def _abreast(
    router: Router,
    ask: Ask,
    first: Generation,
    run: Callable[[int, Generation], Coroutine[Any, Any, Row]],
) -> list[Row]:
    """Run `first` and the other rows side by side.

    Each follows the first: one answer comes from one model, also where a swap comes between its rows.
    """
    rows = ask.rows
    gate = asyncio.Semaphore(ABREAST - 1)

    async def later(index: int) -> Row:
        async with gate:
            opening = router.open(
                ask.model, rows[index], bounded=first.bounded, caller=ask.caller, beside=first
            )
            async with await opening as generation:
                return await run(index, generation)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(0, first))]
            tasks += [group.create_task(later(index)) for index in range(1, len(rows))]
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    return [task.result() for task in tasks]


async def _collect(generation: Generation) -> Row:
    return _row(generation, await generation.collect())


async def _pump(generation: Generation, events: EventStream, chunks: Chunks, index: int) -> tuple[Row, bytes]:
    """Write a row's deltas as they come. Gives the row and its last events, still to be sent."""
    before, after = chunks.around(index)
    async for delta in generation:
        data = before + text_bytes(delta.text) + after if delta.text else b""
        if delta.finish is not None:
            row = _row(generation, delta)
            return row, data + chunks.closing(index, row.finish)
        if data and events.write(data):
            await events.drain()
    raise ApiError("engine_failed", "the engine ended this request without a word; try again", retry_after=1)


def _row(generation: Generation, last: Delta) -> Row:
    """A row from its last delta. Raises ApiError where it did not end by itself."""
    if last.finish not in ("stop", "length"):
        text = f"this request was ended early ({last.finish}); try again"
        raise ApiError("engine_failed", text, retry_after=1)
    return Row(last.text, last.tokens, last.finish, generation.prompt_tokens, generation.cached_tokens)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure to tell of: the earliest one that is not itself a group."""
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
