"""Which engine gets a request, and what waits for one.

Decisions, in this order, for each request:

1. A further row of a request that has begun goes where its first row went, or ends with model_swapping.
2. Its name is resolved; none, "" and "default" mean the active model. Unknown: model_not_found.
3. The route refuses, or new sessions are turned away and it is one: that error, at once.
4. The route is ready, nobody who could start waits before it, and its engine has a free row: submitted.
   Where the route is throttled, only known sessions start beside others; a new one starts alone.
5. The queue is full, of all models or of this one: overloaded, with an estimate of when to come back.
6. It waits, first come, first served per model, until a row is free, the table changes, or its time is up.

`directions` answers 1 to 4, `books` writes down how each request ended; what holds and moves them is here.
A new table, a freed row and a dead engine all lead to the same look at the queue. What an engine had not
yet accepted when it died or began to drain is queued again in its old place, with its old deadline. That
deadline holds until an engine begins the request, also while it waits inside one for memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from itertools import count

import msgspec

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor import refusals
from appliance.supervisor.books import Books
from appliance.supervisor.directions import FINISHING, Directions
from appliance.supervisor.engine import Engine
from appliance.supervisor.generation import Generation
from appliance.supervisor.inquiry import Inquiry, InquirySink, Vectors
from appliance.supervisor.pool import Engines
from appliance.supervisor.queues import Queues
from appliance.supervisor.record import NOBODY, Caller
from appliance.supervisor.refusals import SWAP_RETRY
from appliance.supervisor.ticket import Ticket, TicketSink
from appliance.supervisor.wants import Wants
from reconciler.observed import Route, RoutingTable

UNNAMED = frozenset({None, "", "default"})
LONGEST_RETRY = 60.0


class Router:
    """Holds leases and the queue.

    on_change: `wanted` changed; it must only note that, and return.
    """

    def __init__(self, engines: Engines, on_change: Callable[[], None] | None = None) -> None:
        self.on_change = on_change
        self.books = Books()
        self._engines = engines
        engines.on_free = self._freed
        self._queues = Queues()
        self._wants = Wants()
        self._directions = Directions(engines, self.books.sessions, self._wants)
        self._live: set[Generation] = set()  # submitted, not ended
        self._rids = count(1)
        self._numbers = count(1)

    # --- what others see --------------------------------------------------------------------------

    @property
    def table(self) -> RoutingTable:
        return self._directions.table

    @property
    def wanted(self) -> Mapping[str, float]:
        """Models somebody waits for and the table said `wake` of -> since when (loop clock)."""
        self._wants.settle(self._queues.__contains__, self.table, asyncio.get_running_loop().time())
        return self._wants.current()

    @property
    def queued(self) -> int:
        return len(self._queues)

    def waiting(self, model: str) -> int:
        """Requests in the queue of one model."""
        return len(self._queues.line(model))

    def waiting_since(self, model: str) -> list[float]:
        """When each of them came, on the loop's clock."""
        return [ticket.opened for ticket in self._queues.line(model)]

    @property
    def in_flight(self) -> int:
        return len(self._live)

    @property
    def running(self) -> Collection[Generation]:
        """Submitted, not ended."""
        return self._live

    @property
    def tokens_out(self) -> int:
        """Completion tokens since start, those of running requests included."""
        return self.books.counters.finished_tokens + sum(generation.tokens for generation in self._live)

    @property
    def last_used(self) -> dict[str, float]:
        """Engine id -> when its last request ended, for the engines there are; others are dropped."""
        counters = self.books.counters
        used = {engine: at for engine, at in counters.last_used.items() if self._engines.get(engine)}
        counters.last_used = used
        return dict(used)

    # --- requests ---------------------------------------------------------------------------------

    def check(self, caller: Caller = NOBODY) -> None:
        """Raise what any request would be refused with now, whatever it asks for: before its body is read.

        Returning promises nothing: only the body tells which model it is for.
        """
        error = self._hopeless()
        if error is not None:
            self.books.unread(caller, error.code)
            error.recorded = True
            raise error

    def note(self, caller: Caller, code: str) -> None:
        """A request was refused before it came here: its body, its Host header, its path."""
        self.books.unread(caller, code)

    async def open(
        self,
        model: str | None,
        submit: wire.Submit,
        *,
        bounded: bool = True,
        caller: Caller = NOBODY,
        beside: Generation | None = None,
    ) -> Generation:
        """Find a row for a request; comes back when the engine has begun it. Raises ApiError.

        `submit.rid` is ignored and assigned here. bounded: the reader streams, and is cut off when it
        leaves too much unread. beside: the first row of the same request: this one runs on the same
        model, or not at all. Cancelling the task gives back whatever the request holds by then.
        """
        ticket = self._ticket(model, submit, caller)
        ticket.bounded, ticket.beside = bounded, beside
        generation = await self._served(ticket)
        assert isinstance(generation, Generation)
        return generation

    async def ask(
        self, model: str | None, question: wire.Embed | wire.Rank, *, caller: Caller = NOBODY
    ) -> tuple[str, Vectors]:
        """Vectors or scores, and the key of the model that computed them. Raises ApiError.

        It waits, wakes a model, holds its engine while that drains and ends with it as a row of a chat
        does. `question.number` and `caller` are ignored and assigned here. Cancelling the task takes the
        question back.
        """
        ticket = self._ticket(model, wire.Submit(rid=0, sampling=wire.Sampling(max_tokens=0)), caller)
        ticket.question = msgspec.structs.replace(question, caller=caller.key)
        inquiry = await self._served(ticket)
        assert isinstance(inquiry, Inquiry)
        async with inquiry:
            await inquiry.collect()
            assert inquiry.answer is not None
            return inquiry.model, inquiry.answer

    async def engine(self, model: str | None, *, caller: Caller = NOBODY) -> Engine:
        """The engine that answers questions about a model (see `asking`). Raises ApiError.

        Where the model is not there, it waits as a request would, and wakes the model as one would; it
        takes no row.
        """
        ticket = self._ticket(model, wire.Submit(rid=0, sampling=wire.Sampling(max_tokens=0)), caller)
        ticket.visit = True
        engine = await self._served(ticket)
        assert isinstance(engine, Engine)
        return engine

    def _ticket(self, model: str | None, submit: wire.Submit, caller: Caller) -> Ticket:
        loop = asyncio.get_running_loop()
        now = loop.time()
        return Ticket(
            number=next(self._numbers),
            name=None if model in UNNAMED else model,
            submit=submit,
            bounded=True,
            opened=now,
            deadline=now + self.table.timeout,
            future=loop.create_future(),
            caller=caller,
        )

    async def _served(self, ticket: Ticket) -> Generation | Engine:
        try:
            over = None
            if ticket.caller.charge is not None:
                over = ticket.caller.charge.reserve(ticket.submit.sampling.max_tokens)
            if over is not None:
                self._refuse(ticket, over)
            else:
                self._place(ticket)
            return await ticket.future
        except ApiError as error:
            error.recorded = True
            raise
        except asyncio.CancelledError:
            self._abandon(ticket)
            raise

    def apply(self, table: RoutingTable) -> None:
        """Swap all orders at once, and look at every waiting request again. Idempotent."""
        if table == self.table:
            return
        self._directions.follow(table)
        self.books.counters.forget(table.routes)
        for ticket in self._queues.take_all():
            try:
                route = self._directions.resolve(ticket)
            except ApiError as error:
                self._refuse(ticket, error)
            else:
                self._enqueue(ticket, route)
        for target in self._queues:
            self._pump(target)
        self._unwant()

    def close(self, message: str = "the appliance is shutting down") -> None:
        """Refuse what waits and all that comes. Requests that run go on for as long as their engines do."""
        self._directions.close(message)
        for ticket in self._queues.take_all():
            self._refuse(ticket, refusals.closed(message))
        self._unwant()

    # --- decisions --------------------------------------------------------------------------------

    def _hopeless(self) -> ApiError | None:
        table = self.table
        barred = self._directions.barred()
        if barred is not None:
            return barred
        if len(self._queues) < table.depth or any(map(self._may_start_now, table.routes.values())):
            return None
        active = None if table.active is None else table.routes.get(table.active)
        return refusals.full(len(self._queues), SWAP_RETRY if active is None else self._estimate(active))

    def _may_start_now(self, route: Route) -> bool:
        if route.model in self._queues and not route.throttled:
            return False
        return self._directions.free_engine(route) is not None

    def _place(self, ticket: Ticket) -> None:
        """All decisions for a request that has just come."""
        try:
            route = self._directions.resolve(ticket)
        except ApiError as error:
            self._refuse(ticket, error)
            return
        if ticket.visit and (answering := self._directions.answering(route)) is not None:
            ticket.settle(answering)
            return
        engine = self._directions.free_engine(route, ticket)
        line = self._queues.line(ticket.target)
        if engine is not None and self._directions.next(line, route, engine) is None:
            if self._directions.next([ticket], route, engine) is not None:
                self._submit(ticket, engine)
                return
        if len(self._queues) >= self.table.depth:
            self._refuse(ticket, refusals.full(len(self._queues), self._estimate(route)))
        elif route.depth is not None and len(line) >= route.depth:
            self._refuse(ticket, refusals.late(ticket.model, len(line), self._estimate(route)))
        else:
            self._enqueue(ticket, route)

    def _submit(self, ticket: Ticket, engine: Engine) -> None:
        if ticket.visit:
            ticket.settle(engine)
            return
        rid = next(self._rids)
        known = self._directions.known(ticket)
        kind = Generation if ticket.question is None else Inquiry
        generation = kind(
            rid, ticket.model, engine, ticket.opened, ticket.bounded, self._ended, ticket.caller, known
        )
        ticket.generation = generation
        self._live.add(generation)
        try:
            self._send(ticket, generation, engine)
        except wire.WireError as error:
            self._unsent(ticket, generation, ApiError("request_too_large", str(error)))
        except (ValueError, TypeError, OverflowError) as error:
            text = f"the request holds a value that cannot be sent: {error}"
            self._unsent(ticket, generation, ApiError("invalid_request", text))
        else:
            if not ticket.future.done():
                self._arm(ticket)

    def _send(self, ticket: Ticket, generation: Generation, engine: Engine) -> None:
        books = self.books
        if isinstance(generation, Inquiry) and ticket.question is not None:
            inquiries = InquirySink(ticket, generation, books.accepted, self._again, books.answered)
            engine.ask(generation.rid, ticket.question, inquiries)
            return
        sink = TicketSink(ticket, generation, books.accepted, self._again)
        engine.submit(_signed(ticket.submit, generation.rid, ticket.caller), sink)

    def _unsent(self, ticket: Ticket, generation: Generation, error: ApiError) -> None:
        ticket.generation = None
        self._live.discard(generation)
        self._refuse(ticket, error)

    def _pump(self, target: str) -> None:
        """Submit from one queue for as long as there are free rows."""
        route = self._directions.route(target)
        while line := self._queues.line(target):
            if route is None:
                if target.endswith(FINISHING):
                    self._let_go(target)
                return
            engine = self._directions.free_engine(route, line[0])
            ticket = None if engine is None else self._directions.next(line, route, engine)
            if engine is None or ticket is None:
                return
            self._dequeue(ticket)
            self._submit(ticket, engine)

    def _let_go(self, target: str) -> None:
        """The engine that alone could have run these is gone."""
        for ticket in list(self._queues.line(target)):
            self._dequeue(ticket)
            self._refuse(ticket, refusals.swapped(ticket.model))

    # --- the queue --------------------------------------------------------------------------------

    def _enqueue(self, ticket: Ticket, route: Route) -> None:
        self._queues.put(ticket)
        self._arm(ticket)
        if route.status == "wake" and self._wants.add(ticket.target, ticket.opened):
            self._changed()

    def _arm(self, ticket: Ticket) -> None:
        if ticket.timer is None:
            ticket.timer = asyncio.get_running_loop().call_at(ticket.deadline, self._expire, ticket)

    def _dequeue(self, ticket: Ticket) -> None:
        self._queues.take(ticket)
        if ticket.target not in self._queues:
            self._unwant()

    def _unwant(self) -> None:
        """Nobody waits for it any more, served or not."""
        now = asyncio.get_running_loop().time()
        if self._wants.settle(self._queues.__contains__, self.table, now):
            self._changed()

    def _expire(self, ticket: Ticket) -> None:
        ticket.timer = None
        if ticket.future.done():
            return
        waited = asyncio.get_running_loop().time() - ticket.opened
        route = self._directions.route(ticket.target)
        retry = SWAP_RETRY if route is None else self._estimate(route)
        if ticket.queued:
            self._dequeue(ticket)
            engine = None if route is None else self._engines.get(route.engine)
            answers = engine is not None and engine.open
            self._refuse(ticket, refusals.not_served(route, ticket.model, waited, retry, answers=answers))
        elif ticket.generation is not None:
            memory = ticket.generation.engine.waiting > 0
            error = refusals.not_begun(ticket.model, waited, retry, memory=memory)
            ticket.generation.withdraw(error)
            ticket.settle(error)

    def _refuse(self, ticket: Ticket, error: ApiError) -> None:
        self.books.unbegun(ticket, error.code)
        ticket.settle(error)

    def _abandon(self, ticket: Ticket) -> None:
        """Its client went away, at whatever point."""
        if ticket.queued:
            self._dequeue(ticket)
            self.books.unbegun(ticket, "cancelled")
        if ticket.generation is not None:
            ticket.generation.cancel()
        if ticket.timer is not None:
            ticket.timer.cancel()
        if ticket.future.done() and not ticket.future.cancelled():
            ticket.future.exception()  # seen, so that nobody logs it as forgotten

    def _estimate(self, route: Route) -> float:
        """Seconds until a row is likely to be free, from how long requests took."""
        pace = self.books.counters.pace.get(route.model, SWAP_RETRY)
        ahead = len(self._queues.line(route.model)) + 1
        return min(LONGEST_RETRY, max(1.0, pace * ahead / max(1, route.concurrency)))

    # --- what engines and generations report ------------------------------------------------------

    def _freed(self, engine: Engine) -> None:
        for target in self._queues:
            if self._directions.leads(target, engine):
                self._pump(target)

    def _again(self, generation: Generation, ticket: Ticket) -> None:
        """The engine took it not: queue it again in its old place."""
        self._live.discard(generation)
        if ticket.future.done():
            return
        try:
            route = self._directions.resolve(ticket)
        except ApiError as error:
            self._refuse(ticket, error)
        else:
            self._enqueue(ticket, route)
            # Its route may lead to an idle engine by now: with nobody running there, no freed row would
            # ever come to look. Not at once, so that all that is handed back finds its old order first.
            asyncio.get_running_loop().call_soon(self._pump, ticket.target)

    def _ended(self, generation: Generation, outcome: str) -> None:
        self._live.discard(generation)
        self.books.ended(generation, outcome)

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()


def _signed(submit: wire.Submit, rid: int, caller: Caller) -> wire.Submit:
    """With its number, and who it is for."""
    return msgspec.structs.replace(
        submit, rid=rid, caller=caller.key, scope=caller.scope, session=caller.conversation
    )
