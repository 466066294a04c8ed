"""What is known of one request, for logs, metrics and service levels.

Times are seconds on the event loop's clock, `None` for what never came. Each request yields exactly one
record: `Ended` where an engine began it, `Refused` where none did.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from appliance.errors import ApiError

log = logging.getLogger("lmx.router")

T = TypeVar("T")


class Charge(Protocol):
    """What a request costs the API key that was shown; see `appliance.access.limits`."""

    @property
    def name(self) -> str:
        """Of the key, never the key."""

    def may_use(self, model: str) -> bool: ...

    def reserve(self, answer: int | None) -> ApiError | None:
        """A row is about to begin, with so many tokens of answer at most. The refusal, where there is one."""

    def spend(self, tokens: int) -> None:
        """A row has ended."""


class Caller(msgspec.Struct, frozen=True):
    """Who asks. session: what tells this client's requests from others', for the throttle. own: the
    appliance itself, which is neither turned away while drained nor held back by a throttle.

    key: a hash of the API key (see `identity`); "": none was shown. scope: whose cached prompts may be used;
    "": everybody's. conversation: the name under which this one is kept. left_out: a line of the prompt that
    changes each time was left out (see `server.volatile`). charge: None where no key is needed."""

    session: str | None = None
    request_id: str = ""
    path: str = ""
    own: bool = False
    key: str = ""
    scope: str = ""
    conversation: str | None = None
    left_out: bool = False
    charge: Charge | None = None

    @property
    def name(self) -> str | None:
        """Of the API key, for logs."""
        return None if self.charge is None else self.charge.name


NOBODY = Caller()


class Ended(msgspec.Struct, frozen=True):
    """A request that an engine began. outcome: "ok", "cancelled" or the code of the error that ended it.

    rows: requests that its engine held meanwhile, itself included: the mean of two looks, at its first
    token and at its end.
    """

    model: str
    engine: str
    priority: int  # of the model
    asked: float  # the client's request came
    started: float  # the engine accepted it
    first_token: float | None
    ended: float
    tokens: int  # completion
    prompt_tokens: int
    cached_tokens: int
    outcome: str
    rows: float
    known: bool  # its session had been seen before
    caller: Caller
    cached_from: str | None = None  # memory | disk: the slowest tier that gave cached_tokens


class Refused(msgspec.Struct, frozen=True):
    """A request that no engine began. model: "" for a name that leads nowhere. outcome: the error's code,
    or "cancelled" where the client went away first."""

    model: str
    outcome: str
    asked: float
    ended: float
    known: bool
    caller: Caller


def tell(listeners: Sequence[Callable[[T], None]], record: T) -> None:
    """Hand a record to everybody. One listener that fails must not end an engine's connection."""
    for listener in listeners:
        try:
            listener(record)
        except Exception:
            log.exception("a record of a request was lost")
