"""One log line for each request, at its end; refusals in bulk as one line per second and code.

An overload refuses thousands of requests a second. Their lines would cost more than the refusals.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from appliance.logs import fields
from appliance.server.routes import route_of
from appliance.server.volatile import NAME
from appliance.supervisor.record import Ended, Refused

log = logging.getLogger("lmx.requests")

EACH_S = 1.0
LINES = 10  # per code and EACH_S; the others are summed up


class RequestLog:
    """Takes the router's records. `generation` and `step` are set from outside when they change."""

    def __init__(self) -> None:
        self.generation = 0
        self.step: str | None = None
        self._told: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def ended(self, record: Ended) -> None:
        ttft = None if record.first_token is None else record.first_token - record.asked
        took = record.ended - record.asked
        log.info(
            "%s: %s, %d tokens in %.2f s",
            record.model,
            record.outcome,
            record.tokens,
            took,
            extra=fields(
                request_id=record.caller.request_id or None,
                route=route_of(record.caller.path),
                key=record.caller.name,
                model=record.model,
                engine=record.engine,
                generation=self.generation,
                step=self.step,
                prompt_tokens=record.prompt_tokens,
                cached_tokens=record.cached_tokens,
                cached_from=record.cached_from,
                left_out=NAME if record.caller.left_out else None,
                tokens=record.tokens,
                ttft_ms=_ms(ttft),
                duration_ms=_ms(took),
                code=record.outcome,
            ),
        )

    def refused(self, record: Refused) -> None:
        code = record.outcome
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EACH_S, self._sum_up)
        self._told[code] += 1
        if self._told[code] > LINES:
            self._untold[code] += 1
            return
        waited = record.ended - record.asked
        log.info(
            "%s: %s, after %.2f s",
            record.model or "request",
            code,
            waited,
            extra=fields(
                request_id=record.caller.request_id or None,
                route=route_of(record.caller.path),
                key=record.caller.name,
                model=record.model or None,
                generation=self.generation,
                step=self.step,
                duration_ms=_ms(waited),
                code=code,
            ),
        )

    def _sum_up(self) -> None:
        self._timer = None
        for code, count in self._untold.items():
            log.info(
                "%d more requests ended with %s within %g s",
                count,
                code,
                EACH_S,
                extra=fields(code=code, count=count, generation=self.generation, step=self.step),
            )
        self._told.clear()
        self._untold.clear()


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
