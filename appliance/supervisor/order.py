"""What the parts of the supervisor hand each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor import footprint as memory
from appliance.supervisor import process
from appliance.supervisor.deadlines import Deadlines
from reconciler.observed import Limits

if TYPE_CHECKING:
    from appliance.supervisor.engine import Engine


@dataclass(frozen=True)
class Probe:
    """The prompt a model must answer before it takes traffic. within: seconds."""

    prompt: str = "ping"
    max_tokens: int = 4
    within: float = 30.0


@dataclass(frozen=True)
class Template:
    """A conversation to warm up with. submit None: `problem` says why it cannot be sent."""

    name: str
    submit: wire.Submit | None = None
    problem: str = ""


@dataclass(frozen=True)
class Order:
    """What one engine is to run. load_timeout: seconds from spawn to loaded, and again for `warmup`."""

    id: str
    model: str
    digest: str
    load: wire.Load
    limits: Limits
    probe: Probe
    load_timeout: float
    own_digest: str = ""
    warmup: tuple[Template, ...] = ()


class Sink(Protocol):
    """Where the answers to one Submit go. After `refused`, `lost`, `returned` or a row with `finish`
    nothing more comes."""

    def accepted(self, message: wire.Accepted) -> None: ...

    def refused(self, message: wire.Refused) -> None: ...

    def row(self, row: wire.Row) -> None: ...

    def lost(self, error: ApiError) -> None:
        """The engine is gone; the request had been accepted."""

    def returned(self) -> None:
        """The engine takes it no more; it had not been accepted and may run elsewhere."""


class Answers(Sink, Protocol):
    """The same of a question to an encoder."""

    def answered(self, answer: wire.Embedded | wire.Ranked | wire.Unanswered) -> None: ...


def _nothing() -> None:
    return None


def _nobody(engine: Engine) -> None:
    return None


@dataclass
class House:
    """What all engines of one parent share. on_change: a state changed. on_free: an engine may take
    another request."""

    state: Path
    deadlines: Deadlines = field(default_factory=Deadlines)
    command: Sequence[str] = process.ENGINE
    footprint: Callable[[int], int] = memory.footprint
    on_change: Callable[[], None] = _nothing
    on_free: Callable[[Engine], None] = _nobody
