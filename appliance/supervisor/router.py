"""Which engine gets a request, and what waits for one.

Decisions, in this order, for each request:

1. Its name is resolved; none, "" and "default" mean the active model. Unknown: model_not_found.
2. The route refuses: that error, at once.
3. The route is ready, nobody waits before it, and its engine has a free row: submitted.
4. The queue is full: overloaded, with an estimate of when to come back.
5. It waits, first come, first served per model, until a row is free, the table changes, or its time is up.

A new table, a freed row and a dead engine all lead to the same look at the queue. What an engine had not
yet accepted when it died or began to drain is queued again in its old place, with its old deadline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from itertools import chain, count

import msgspec

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor.counters import Counters
from appliance.supervisor.engine import Engine
from appliance.supervisor.generation import Generation
from appliance.supervisor.pool import Engines
from appliance.supervisor.ticket import Ticket, TicketSink
from reconciler.observed import Route, RoutingTable

UNNAMED = frozenset({None, "", "default"})
SWAP_RETRY = 5.0  # seconds: a load or swap under way is likely to be over by then
LONGEST_RETRY = 60.0
NAME_SHOWN = 100  # characters of an unknown name in the answer


class Router:
    """Holds leases and the queue. on_change: `wanted` changed; it must only note that, and return."""

    def __init__(self, engines: Engines, on_change: Callable[[], None] | None = None) -> None:
        self.on_change = on_change
        self.counters = Counters()
        self._engines = engines
        engines.on_free = self._freed
        self._table = RoutingTable()
        self._queues: dict[str, deque[Ticket]] = {}  # never holds an empty one
        self._wanted: dict[str, float] = {}
        self._live: set[Generation] = set()  # submitted, not ended
        self._closed: str | None = None
        self._rids = count(1)
        self._numbers = count(1)

    # --- what others see --------------------------------------------------------------------------

    @property
    def table(self) -> RoutingTable:
        return self._table

    @property
    def wanted(self) -> Mapping[str, float]:
        """Models somebody waits for and the table said `wake` of -> since when (loop clock)."""
        return dict(self._wanted)

    @property
    def queued(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def in_flight(self) -> int:
        return len(self._live)

    @property
    def tokens_out(self) -> int:
        """Completion tokens since start, those of running requests included."""
        return self.counters.finished_tokens + sum(generation.tokens for generation in self._live)

    @property
    def last_used(self) -> dict[str, float]:
        """Engine id -> when its last request ended, for the engines there are; others are dropped."""
        used = {engine: at for engine, at in self.counters.last_used.items() if self._engines.get(engine)}
        self.counters.last_used = used
        return dict(used)

    # --- requests ---------------------------------------------------------------------------------

    async def open(self, model: str | None, submit: wire.Submit, *, bounded: bool = True) -> Generation:
        """Find a row for a request; comes back when the engine has accepted it. Raises ApiError.

        `submit.rid` is ignored and assigned here. bounded: the reader streams, and is cut off when it
        leaves too much unread. Cancelling the task gives back whatever the request holds by then.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        ticket = Ticket(
            number=next(self._numbers),
            name=None if model in UNNAMED else model,
            submit=submit,
            bounded=bounded,
            opened=now,
            deadline=now + self._table.timeout,
            future=loop.create_future(),
        )
        self._place(ticket)
        try:
            return await ticket.future
        except asyncio.CancelledError:
            self._abandon(ticket)
            raise

    def apply(self, table: RoutingTable) -> None:
        """Swap all orders at once, and look at every waiting request again. Idempotent."""
        if table == self._table:
            return
        self._table = table
        waiting = sorted(chain.from_iterable(self._queues.values()), key=lambda ticket: ticket.number)
        self._queues.clear()
        for ticket in waiting:
            ticket.queued = False
            try:
                route = self._resolve(ticket)
            except ApiError as error:
                self._refuse(ticket, error)
            else:
                self._enqueue(ticket, route)
        for target in list(self._queues):
            self._pump(target)
        self._unwant()

    def close(self, message: str = "the appliance is shutting down") -> None:
        """Refuse what waits and all that comes. Requests that run go on for as long as their engines do."""
        self._closed = message
        for ticket in list(chain.from_iterable(self._queues.values())):
            self._dequeue(ticket)
            self._refuse(ticket, ApiError("overloaded", message, retry_after=SWAP_RETRY))

    # --- decisions --------------------------------------------------------------------------------

    def _resolve(self, ticket: Ticket) -> Route:
        """Decisions 1 and 2; sets `ticket.target`, "" for a name that leads nowhere. Raises ApiError."""
        table = self._table
        ticket.target = ""
        if self._closed is not None:
            raise ApiError("overloaded", self._closed, retry_after=SWAP_RETRY)
        if ticket.name is None:
            if table.active is None:
                raise ApiError(
                    "no-model-loaded", table.reason or "no model is active", retry_after=SWAP_RETRY
                )
            target: str | None = table.active
        else:
            target = table.names.get(ticket.name)
        route = None if target is None else table.routes.get(target)
        if target is None or route is None:
            names = ", ".join(sorted(table.routes)) or "none"
            text = f"there is no model {(ticket.name or target or '')[:NAME_SHOWN]!r}; models here: {names}"
            raise ApiError("model_not_found", text, param="model")
        ticket.target = target
        if route.status == "refuse":
            text = route.message or f"model {target} does not take requests now"
            raise ApiError(route.code, text, retry_after=route.retry_after)
        return route

    def _place(self, ticket: Ticket) -> None:
        """Decisions 3 to 5 for a request that has just come. Raises ApiError."""
        try:
            route = self._resolve(ticket)
        except ApiError as error:
            self.counters.requests[ticket.target, error.code] += 1
            raise
        engine = None if ticket.target in self._queues else self._free_engine(route)
        if engine is not None:
            self._submit(ticket, engine)
            return
        if self.queued >= self._table.depth:
            self.counters.requests[ticket.target, "overloaded"] += 1
            text = f"{self.queued} requests are waiting already, the most that queue.depth allows"
            raise ApiError("overloaded", text, retry_after=self._estimate(route))
        self._enqueue(ticket, route)

    def _free_engine(self, route: Route) -> Engine | None:
        engine = self._engines.get(route.engine) if route.status == "ready" else None
        return engine if engine is not None and engine.open and engine.leases < route.concurrency else None

    def _submit(self, ticket: Ticket, engine: Engine) -> None:
        rid = next(self._rids)
        generation = Generation(rid, ticket.target, engine, ticket.opened, ticket.bounded, self._ended)
        sink = TicketSink(ticket, generation, self._accepted, self._again)
        try:
            engine.submit(msgspec.structs.replace(ticket.submit, rid=rid), sink)
        except wire.WireError as error:
            self._refuse(ticket, ApiError("request_too_large", str(error)))
        except (ValueError, TypeError, OverflowError) as error:
            self._refuse(
                ticket, ApiError("invalid_request", f"the request holds a value that cannot be sent: {error}")
            )
        else:
            ticket.generation = generation
            self._live.add(generation)

    def _pump(self, target: str) -> None:
        """Submit from one queue for as long as there are free rows."""
        queue = self._queues.get(target)
        route = self._table.routes.get(target)
        while queue and route is not None and (engine := self._free_engine(route)) is not None:
            ticket = queue[0]
            self._dequeue(ticket)
            self._submit(ticket, engine)

    # --- the queue --------------------------------------------------------------------------------

    def _enqueue(self, ticket: Ticket, route: Route) -> None:
        loop = asyncio.get_running_loop()
        queue = self._queues.setdefault(ticket.target, deque())
        if queue and queue[-1].number > ticket.number:  # queued again: back to its old place
            queue = deque(sorted([*queue, ticket], key=lambda other: other.number))
            self._queues[ticket.target] = queue
        else:
            queue.append(ticket)
        ticket.queued = True
        if ticket.timer is None:
            ticket.timer = loop.call_at(ticket.deadline, self._expire, ticket)
        if route.status == "wake" and ticket.target not in self._wanted:
            self._wanted[ticket.target] = ticket.opened
            self._changed()

    def _dequeue(self, ticket: Ticket) -> None:
        ticket.queued = False
        queue = self._queues[ticket.target]
        queue.remove(ticket)
        if not queue:
            del self._queues[ticket.target]
            self._unwant()

    def _unwant(self) -> None:
        """Nobody waits for it any more, served or not."""
        gone = self._wanted.keys() - self._queues.keys()
        for target in gone:
            del self._wanted[target]
        if gone:
            self._changed()

    def _expire(self, ticket: Ticket) -> None:
        ticket.timer = None
        if not ticket.queued:
            return  # submitted in time; the engine's own deadlines hold now
        self._dequeue(ticket)
        waited = f"waited {asyncio.get_running_loop().time() - ticket.opened:.1f} s"
        route = self._table.routes.get(ticket.target)
        engine = None if route is None else self._engines.get(route.engine)
        if route is not None and route.status == "ready" and engine is not None and engine.open:
            text = f"{waited} for a free row of model {ticket.target}"
            error = ApiError("overloaded", text, retry_after=self._estimate(route))
        elif route is not None and route.status in ("wait", "wake") and route.message:
            error = ApiError(
                route.code, f"{waited}: {route.message}", retry_after=route.retry_after or SWAP_RETRY
            )
        else:
            text = f"{waited} for model {ticket.target}, which is being loaded or swapped"
            error = ApiError("model_swapping", text, retry_after=SWAP_RETRY)
        self._refuse(ticket, error)

    def _refuse(self, ticket: Ticket, error: ApiError) -> None:
        self.counters.requests[ticket.target, error.code] += 1
        ticket.settle(error)

    def _abandon(self, ticket: Ticket) -> None:
        """Its client went away, at whatever point."""
        if ticket.queued:
            self._dequeue(ticket)
        if ticket.generation is not None:
            ticket.generation.cancel()
        if ticket.timer is not None:
            ticket.timer.cancel()
        if ticket.future.done() and not ticket.future.cancelled():
            ticket.future.exception()  # seen, so that nobody logs it as forgotten

    def _estimate(self, route: Route) -> float:
        """Seconds until a row is likely to be free, from how long requests took."""
        pace = self.counters.pace.get(route.model, SWAP_RETRY)
        ahead = len(self._queues.get(route.model, ())) + 1
        return min(LONGEST_RETRY, max(1.0, pace * ahead / max(1, route.concurrency)))

    # --- what engines and generations report ------------------------------------------------------

    def _freed(self, engine: Engine) -> None:
        for target in list(self._queues):
            route = self._table.routes.get(target)
            if route is not None and route.engine == engine.id:
                self._pump(target)

    def _again(self, generation: Generation, ticket: Ticket) -> None:
        """The engine took it not: queue it again in its old place."""
        self._live.discard(generation)
        if ticket.future.done():
            return
        try:
            route = self._resolve(ticket)
        except ApiError as error:
            self._refuse(ticket, error)
        else:
            self._enqueue(ticket, route)
            # Its route may lead to an idle engine by now: with nobody running there, no freed row would
            # ever come to look. Not at once, so that all that is handed back finds its old order first.
            asyncio.get_running_loop().call_soon(self._pump, ticket.target)

    def _accepted(self, generation: Generation) -> None:
        self.counters.prompt_tokens += generation.prompt_tokens
        self.counters.cached_tokens += generation.cached_tokens

    def _ended(self, generation: Generation, outcome: str) -> None:
        self._live.discard(generation)
        now = asyncio.get_running_loop().time()
        if generation.ttft is not None:
            self.counters.ttft_ms.append(generation.ttft * 1000)
        self.counters.ended(
            generation.model, generation.engine_id, outcome, generation.tokens, now - generation.started, now
        )

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()
