"""What the router writes down of each request: one record when it is over, the figures that status and
metrics read, and which sessions are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from appliance.supervisor.counters import Counters
from appliance.supervisor.generation import Generation
from appliance.supervisor.record import Caller, Ended, Refused, tell
from appliance.supervisor.sessions import Sessions
from appliance.supervisor.ticket import Ticket


class Books:
    """on_end, on_refused: told of each request once, when it is over. priority_of: a model's priority, for
    those records."""

    def __init__(self) -> None:
        self.on_end: list[Callable[[Ended], None]] = []
        self.on_refused: list[Callable[[Refused], None]] = []
        self.priority_of: Callable[[str], int] = lambda _: 100
        self.counters = Counters()
        self.sessions = Sessions()

    def unread(self, caller: Caller, code: str) -> None:
        """It was refused before anybody knew which model it is for."""
        now = _now()
        self._refused(Refused("", code, now, now, False, caller))

    def unbegun(self, ticket: Ticket, outcome: str) -> None:
        """It ends before an engine got it."""
        self._refused(Refused(ticket.model, outcome, ticket.opened, _now(), ticket.known, ticket.caller))

    def accepted(self, generation: Generation) -> None:
        """An engine has begun it."""
        now = _now()
        generation.accepted = now
        self.counters.prompt_tokens += generation.prompt_tokens
        self.counters.cached_tokens += generation.cached_tokens
        self.sessions.began(generation.model, generation.caller.session, now)

    def answered(self, generation: Generation, tokens: int) -> None:
        """An encoder has read so many, which it tells with its answer."""
        generation.prompt_tokens = tokens
        self.counters.prompt_tokens += tokens

    def ended(self, generation: Generation, outcome: str) -> None:
        """It had an engine, which may not have begun it."""
        now = _now()
        asked, begun = generation.started, generation.accepted
        if begun is None:
            self.counters.last_used[generation.engine_id] = now
            self._refused(Refused(generation.model, outcome, asked, now, generation.known, generation.caller))
            return
        if generation.ttft is not None:
            self.counters.ttft_ms.append(generation.ttft * 1000)
        self.counters.ended(
            generation.model, generation.engine_id, outcome, generation.tokens, now - begun, now
        )
        self.sessions.ended(generation.model, generation.caller.session, now)
        if generation.caller.charge is not None:
            generation.caller.charge.spend(generation.prompt_tokens + generation.tokens)
        if self.on_end:
            tell(self.on_end, self._record(generation, outcome, begun, now))

    def _refused(self, record: Refused) -> None:
        tell(self.on_refused, record)

    def _record(self, generation: Generation, outcome: str, begun: float, now: float) -> Ended:
        return Ended(
            model=generation.model,
            engine=generation.engine_id,
            priority=self.priority_of(generation.model),
            asked=generation.started,
            started=begun,
            first_token=None if generation.ttft is None else generation.started + generation.ttft,
            ended=now,
            tokens=generation.tokens,
            prompt_tokens=generation.prompt_tokens,
            cached_tokens=generation.cached_tokens,
            outcome=outcome,
            rows=(generation.rows + generation.engine.leases + 1) / 2,  # its own lease is over by now
            known=generation.known,
            caller=generation.caller,
            cached_from=generation.cached_from,
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
