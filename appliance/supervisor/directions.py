"""Where a request belongs: from the name it gives to a line of the queue, an engine, and who starts there.

Decisions 1 to 4 of the router, as questions to the routing table in force. Nothing here queues or submits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from appliance.errors import ApiError
from appliance.supervisor import refusals
from appliance.supervisor.engine import Engine
from appliance.supervisor.generation import Generation
from appliance.supervisor.pool import Engines
from appliance.supervisor.sessions import Sessions
from appliance.supervisor.ticket import Ticket
from appliance.supervisor.wants import Wants
from reconciler.observed import Route, RoutingTable

FINISHING = " finishing"  # after an engine's id: the line of rows that only this engine may run


class Directions:
    def __init__(self, engines: Engines, sessions: Sessions, wants: Wants) -> None:
        self.table = RoutingTable()
        self._closed: str | None = None
        self._drained_at: float | None = None
        self._engines = engines
        self._sessions = sessions
        self._wants = wants

    def follow(self, table: RoutingTable) -> None:
        """The orders from now on."""
        self.table = table
        if not table.drained:
            self._drained_at = None
        elif self._drained_at is None:
            self._drained_at = asyncio.get_running_loop().time()

    def close(self, message: str) -> None:
        """Nobody goes anywhere any more."""
        self._closed = message

    # --- which line -------------------------------------------------------------------------------

    def barred(self) -> ApiError | None:
        """What turns every request away, whichever model it is for."""
        if self._closed is not None:
            return refusals.closed(self._closed)
        if self.table.drained and time.time() >= self.table.sessions_until:
            return refusals.drained(self.table.drained, known=False)
        return None

    def resolve(self, ticket: Ticket) -> Route:
        """Decisions 1 to 3; sets the ticket's target and model, "" where the name leads nowhere.

        Raises ApiError.
        """
        table = self.table
        ticket.target = ticket.model = ""
        if ticket.beside is not None:
            return self._beside(ticket, ticket.beside)
        if self._closed is not None:
            raise refusals.closed(self._closed)
        if ticket.name is None:
            if table.active is None:
                raise refusals.no_active(table.reason)
            target: str | None = table.active
        else:
            target = table.names.get(ticket.name)
        route = None if target is None else table.routes.get(target)
        if target is None or route is None:
            raise refusals.unknown(ticket.name or target or "", sorted(table.routes))
        if ticket.caller.charge is not None and not ticket.caller.charge.may_use(target):
            raise refusals.not_for(ticket.caller.charge.name, target)
        if route.role != ticket.role:
            of_role = sorted(name for name, other in table.routes.items() if other.role == ticket.role)
            raise refusals.other_role(route, ticket.role, of_role, named=ticket.name is not None)
        ticket.target = ticket.model = target
        if route.status == "refuse":
            self._wants.refused(target, ticket.opened)
            raise refusals.refusing(route)
        if self._drained_at is not None and ticket.opened >= self._drained_at:
            known = self.known(ticket)
            if not known or (time.time() >= table.sessions_until and not ticket.caller.own):
                raise refusals.drained(table.drained, known=known)
        return route

    def _beside(self, ticket: Ticket, first: Generation) -> Route:
        """The same form of the same model, or else the very engine, also while it drains."""
        ticket.model = ticket.target = first.model
        route = self.table.routes.get(first.model)
        if route is not None and route.status == "ready":
            engine = self._engines.get(route.engine)
            if engine is not None and engine.order.digest == first.engine.order.digest:
                return route
        target = first.engine_id + FINISHING
        found = self.route(target)
        if found is None:
            raise refusals.swapped(first.model)
        ticket.target = target
        return found

    def route(self, target: str) -> Route | None:
        """The orders for one line of the queue; None: there are none any more."""
        if not target.endswith(FINISHING):
            return self.table.routes.get(target)
        engine = self._engines.get(target.removesuffix(FINISHING))
        if engine is None or not engine.finishing:
            return None
        return Route(engine.order.model, "ready", engine.id, engine.rows)

    def leads(self, target: str, engine: Engine) -> bool:
        """Whether that line goes to this engine."""
        route = self.table.routes.get(target)
        return (route is not None and route.engine == engine.id) or target == engine.id + FINISHING

    # --- who starts -------------------------------------------------------------------------------

    def free_engine(self, route: Route, ticket: Ticket | None = None) -> Engine | None:
        """The engine of a route, where it has a free row. ticket: of whose line, if not the model's own."""
        if route.status != "ready":
            return None
        engine = self._engines.get(route.engine)
        if engine is None or engine.leases >= route.concurrency:
            return None
        takes = engine.finishing if ticket is not None and ticket.target != route.model else engine.open
        return engine if takes else None

    def answering(self, route: Route) -> Engine | None:
        """The engine of a route, where it is there to answer questions; whether it has a row or not."""
        engine = self._engines.get(route.engine) if route.status == "ready" else None
        return engine if engine is not None and engine.open else None

    def next(self, line: Sequence[Ticket], route: Route, engine: Engine) -> Ticket | None:
        """Who of a line starts next, now that there is a free row."""
        if not line:
            return None
        if not route.throttled or engine.leases == 0:
            return line[0]
        return next((ticket for ticket in line if self.known(ticket)), None)

    def known(self, ticket: Ticket) -> bool:
        """Whether its session is under way, or it needs none; kept in the ticket."""
        now = asyncio.get_running_loop().time()
        caller = ticket.caller
        excused = ticket.beside is not None or caller.own
        ticket.known = excused or self._sessions.known(ticket.model, caller.session, now)
        return ticket.known
