"""The server's whole view of the rest of the appliance: one protocol, implemented by `appliance.app`.

Handlers know nothing of the loop, the supervisor or the files on disk. What they need is here, and a
test can stand in for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from appliance.access.desk import Access
    from appliance.skills.registry import Skills
    from appliance.supervisor.router import Router
    from appliance.trying import Trying
    from reconciler.spec import Spec


class Control(Protocol):
    router: Router
    access: Access
    skills: Skills
    trying: Trying

    def spec(self) -> Spec:
        """The spec that is acted on; defaults where no file was ever valid."""

    def identity(self, key: str | None) -> str:
        """A name for who shows this API key, that does not tell the key; "" for none."""

    def status(self) -> dict[str, Any]:
        """The whole /status document."""

    def page(self) -> tuple[bytes, str]:
        """The dashboard as HTML, and its entity tag."""

    def page_changes(self) -> AsyncIterator[bytes]:
        """What differs in it, each second, as Server-Sent Events: see `appliance.dashboard.live`."""

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """What /metrics shows, and its content type, in the form that an Accept header asks for."""

    def plan(self) -> list[dict[str, Any]]: ...

    async def config(self, *, origins: bool) -> dict[str, Any]:
        """/admin/config: the effective spec, secrets and environment values unexpanded. origins: also where
        each value comes from."""

    def alive(self) -> tuple[bool, str]:
        """(the loop beats, reason if it does not)."""

    def ready(self) -> tuple[bool, str | None, str]:
        """(True, model, "") or (False, reason, message). No model where `active` is deliberately null."""

    def models(self) -> list[dict[str, Any]]:
        """What the spec names, for /v1/models: id, aliases, state, effective context and the like."""

    async def admin_models(self) -> list[dict[str, Any]]: ...

    async def load(self, name: str) -> dict[str, Any]:
        """Load as an override and return when the model is ready. Raises ApiError."""

    def pull(self, name: str) -> AsyncIterator[dict[str, Any]]:
        """Download a model that the spec names: `model`, `state`, bytes `done` and `total`, `rate` in bytes
        a second, `eta` in seconds, `file` and `message`, at each change. Raises ApiError, also on the way."""

    async def unload(self, name: str | None) -> dict[str, Any]:
        """Unload one model, or the active one. Raises ApiError."""

    async def clear_override(self, name: str | None) -> dict[str, Any]:
        """Drop one override, or all of them. Raises ApiError."""

    async def drain(self, session_timeout: float, *, wait: bool) -> dict[str, Any]:
        """Turn new sessions away; known ones are served for so many seconds. wait: until nothing is left.
        Raises ApiError."""

    async def undrain(self) -> dict[str, Any]:
        """Take new sessions again. Raises ApiError."""

    async def warmup(self, name: str | None) -> dict[str, Any]:
        """Load one model, or take the active one, and run short requests. Raises ApiError."""

    async def sessions(self) -> list[dict[str, Any]]:
        """Named sessions of the prompt cache, the most recently used first. Raises ApiError."""

    async def drop_sessions(self, name: str | None, model: str | None) -> list[dict[str, Any]]:
        """Forget one session, or all; of one model, or of all. What was dropped. Raises ApiError."""

    async def reconcile(self) -> dict[str, Any]: ...

    def events(self, after: int | None) -> AsyncIterator[dict[str, Any]]:
        """Typed events (id, type, at, message, data), those with a higher id than `after` first, and a
        `telemetry` sample each second. Ends for a reader that is too slow."""
