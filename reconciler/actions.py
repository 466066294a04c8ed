"""The typed steps a plan is made of. Each says what forces it, so that `lmx plan` can explain itself.

An action only *begins* something. Whether it worked is seen in the next observation, never assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.observed import Failure, Limits, RoutingTable


@dataclass(frozen=True, kw_only=True)
class Action:
    """reason: for people, arithmetic included. field: the spec path that forces it. mark: see `lmx plan`."""

    reason: str = ""
    field: str = ""
    mark: str = "~"

    @property
    def kind(self) -> str:
        return _KINDS[type(self)]

    @property
    def subject(self) -> str:
        return ""


@dataclass(frozen=True, kw_only=True)
class SetTable(Action):
    """Give the router its orders, all at once. moves: some request goes elsewhere than before."""

    table: RoutingTable
    moves: bool = True

    @property
    def subject(self) -> str:
        return self.table.active or ""


@dataclass(frozen=True, kw_only=True)
class Spawn(Action):
    """Start an engine process, load, probe. digest names the files and fields, own_digest the model."""

    model: str
    digest: str
    own_digest: str
    limits: Limits
    forecast_bytes: int

    @property
    def subject(self) -> str:
        return self.model


@dataclass(frozen=True, kw_only=True)
class EngineAction(Action):
    engine: str
    model: str

    @property
    def subject(self) -> str:
        return self.model


@dataclass(frozen=True, kw_only=True)
class Configure(EngineAction):
    """Change ceilings and defaults of a running engine; its streams go on."""

    limits: Limits


@dataclass(frozen=True, kw_only=True)
class Drain(EngineAction):
    """Give the engine no new request; let it finish what it has."""


@dataclass(frozen=True, kw_only=True)
class Stop(EngineAction):
    """End the process. Only its exit surely returns the memory, which is then measured.

    code: what requests that it still holds end with. grace: seconds it gets to exit by itself.
    """

    code: str = "engine_failed"
    grace: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Kill(EngineAction):
    """End the process at once, as a failure of its own that goes into the ledger."""

    failure: Failure


@dataclass(frozen=True, kw_only=True)
class Forget(EngineAction):
    """Take an exited engine off the books, after its failure (if any) was written down."""


@dataclass(frozen=True, kw_only=True)
class Download(Action):
    model: str
    digest: str

    @property
    def subject(self) -> str:
        return self.model


@dataclass(frozen=True, kw_only=True)
class CancelDownload(Action):
    digest: str


@dataclass(frozen=True, kw_only=True)
class Bind(Action):
    host: str
    port: int
    mark: str = "!"

    @property
    def subject(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Unbind(Action):
    """Stop accepting on this address; its open connections finish."""

    host: str
    port: int
    mark: str = "!"

    @property
    def subject(self) -> str:
        return f"{self.host}:{self.port}"


_KINDS: dict[type[Action], str] = {
    SetTable: "route",
    Spawn: "load",
    Configure: "configure",
    Drain: "drain",
    Stop: "unload",
    Kill: "kill",
    Forget: "forget",
    Download: "download",
    CancelDownload: "cancel_download",
    Bind: "bind",
    Unbind: "unbind",
}
