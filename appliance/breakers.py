"""Circuit breakers around whatever is not a model, so that chat stays up when something else is down.

After `FAILURES` in a row the breaker opens: nobody is let through, and everyone is told why and when to
come back. Then one is let through (half open). If that goes well the breaker closes; if not, it opens
again for twice as long.

The states, counters and rules are pybreaker's. The waiting is done here: its own goes by the wall
clock, which is set back at times, knows no growing pause, and ends with a call that must be over before
the next may be asked for. What is guarded here, a download, takes minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import pybreaker

FAILURES = 5
FIRST_S = 60.0
LONGEST_S = 600.0

State = Literal["closed", "open", "half_open"]
_STATES: dict[str, State] = {
    pybreaker.STATE_CLOSED: "closed",
    pybreaker.STATE_OPEN: "open",
    pybreaker.STATE_HALF_OPEN: "half_open",
}


@dataclass(frozen=True)
class View:
    """failures: in a row. retry_in: seconds until one is let through, while open. why: the last failure."""

    state: State = "closed"
    failures: int = 0
    opened: int = 0  # how often since start
    retry_in: float | None = None
    why: str = ""


class Open(Exception):
    """Nobody is let through now. retry_in: seconds."""

    def __init__(self, message: str, retry_in: float) -> None:
        super().__init__(message)
        self.message = message
        self.retry_in = retry_in


class _Failed(Exception):
    """What pybreaker counts."""


class Breaker:
    """One thing that may be down. on_change: its state moved. Use from one thread.

    Everyone who was let in by `enter` ends with one of `succeeded`, `failed` and `left`; a long piece of
    work may also tell of failures and successes on its way.
    """

    def __init__(
        self,
        name: str,
        on_change: Callable[[Breaker], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        first: float = FIRST_S,
    ) -> None:
        self.name = name
        self._clock, self._on_change, self._first = clock, on_change, first
        self._circuit = pybreaker.CircuitBreaker(
            fail_max=FAILURES, reset_timeout=0, name=name, listeners=[_Listener(self._moved)]
        )
        self.state: State = "closed"  # pybreaker tells of a new state a moment before it has it itself
        self._pause = first
        self._until = 0.0
        self._on_trial = False
        self._opened = 0
        self._opened_before = False  # open or half open since it last closed
        self._why = ""

    def view(self) -> View:
        left = max(0.0, self._until - self._clock()) if self.state == "open" else None
        return View(self.state, self._circuit.fail_counter, self._opened, left, self._why)

    def enter(self) -> None:
        """Ask to be let in. Raises Open."""
        if self.state == "open":
            left = self._until - self._clock()
            if left > 0:
                raise Open(self._refusal(), left)
            self._circuit.half_open()
        if self.state == "half_open":
            if self._on_trial:
                raise Open(f"{self.name}: one try is under way after failures: {self._why}", self._first)
            self._on_trial = True

    def failed(self, why: str) -> None:
        """It did not answer, or answered nonsense. What failed on its own account does not belong here."""
        if self.state == "open":
            return  # late news of something let in before
        self._why = why
        self._on_trial = False
        try:
            self._circuit.call(_fail)
        except (_Failed, pybreaker.CircuitBreakerError):
            return

    def succeeded(self) -> None:
        if self.state == "open":
            return
        self._on_trial = False
        self._circuit.call(lambda: None)

    def left(self) -> None:
        """Ended without a verdict, by a cancel for instance: the next may try."""
        self._on_trial = False

    def retry(self) -> None:
        """A person asks for it: the next one is let through at once."""
        self._until = self._clock()

    def _moved(self, now: State) -> None:
        self.state = now
        if now == "open":
            self._pause = min(LONGEST_S, self._pause * 2) if self._opened_before else self._first
            self._until = self._clock() + self._pause
            self._opened += 1
        self._opened_before = now != "closed"
        self._on_change(self)

    def _refusal(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(time.time() + self._until - self._clock()))
        return f"{self.name} failed {FAILURES} times in a row and is left alone until {clock}: {self._why}"


def told(breaker: Breaker) -> str:
    """What became of it, in one sentence."""
    view = breaker.view()
    if view.state == "open":
        return f"{breaker.name} is left alone for {view.retry_in or 0.0:.0f} s: {view.why}"
    if view.state == "half_open":
        return f"{breaker.name} is tried once more"
    return f"{breaker.name} answers again"


class Breakers:
    """All of them by name, for status, metrics and events."""

    def __init__(self, on_change: Callable[[Breaker], None], *, first: float = FIRST_S) -> None:
        self._on_change, self._first = on_change, first
        self._breakers: dict[str, Breaker] = {}

    def get(self, name: str) -> Breaker:
        if name not in self._breakers:
            self._breakers[name] = Breaker(name, self._on_change, first=self._first)
        return self._breakers[name]

    def forget(self, name: str) -> None:
        """What it guarded is no more."""
        self._breakers.pop(name, None)

    def views(self) -> Mapping[str, View]:
        return {name: breaker.view() for name, breaker in self._breakers.items()}


class _Listener(pybreaker.CircuitBreakerListener):
    def __init__(self, moved: Callable[[State], None]) -> None:
        self._moved = moved

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self._moved(_STATES[new_state.name])


def _fail() -> NoReturn:
    raise _Failed
