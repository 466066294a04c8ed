"""What the HTTP server may see and ask of the appliance: `appliance.server.control.Control`, for real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from appliance import against, templates
from appliance import status as documents
from appliance.access.desk import Access
from appliance.breakers import Breakers
from appliance.dashboard.desk import Dashboard
from appliance.effective import Effective
from appliance.errors import ApiError
from appliance.feed import Feed
from appliance.hub.inventory import inventory
from appliance.identity import Identities
from appliance.metrics import Metrics
from appliance.pulling import Pulls
from appliance.remembered import Remembered
from appliance.sessions import Sessions
from appliance.skills.registry import Skills
from appliance.supervisor.router import Router
from appliance.trying import DENIED, Trying
from appliance.warming import warm
from reconciler.fields import plain
from reconciler.loop import Loop
from reconciler.observed import EngineState
from reconciler.spec import Spec

WHOLE = ""  # the "model" of an override that is for the whole appliance
DRAIN_BEGINS_S = 10.0  # the loop gives the router its orders long before
DRAIN_LOOK_S = 0.1
STATUS_FRESH_S = 0.05
USUAL_PRIORITY = 100
BEAT_LIMIT_S = 20.0  # the loop looks at least every 5 s; four misses in a row are not a busy moment
GIB = 2**30


class ApplianceControl:
    """reading: cheap, from what the loop last saw. Changing: an override, and the wait for its effect."""

    def __init__(
        self,
        router: Router,
        feed: Feed,
        memory: Remembered,
        source: str,
        retry: Callable[[], None],
        metrics: Metrics,
        breakers: Breakers,
        sessions: Sessions,
        identities: Identities,
        access: Access,
        pulls: Pulls,
        skills: Skills,
    ) -> None:
        self.router, self.access, self.skills = router, access, skills
        self._retry, self._metrics, self._breakers = retry, metrics, breakers
        self._feed, self._memory, self._source = feed, memory, source
        self._sessions, self.identity, self._pulls = sessions, identities.of, pulls
        self._loop: Loop
        self._service: Callable[[], dict[str, Any]]
        self.trying: Trying
        self._effective: Effective
        self._started = time.time()
        self._changed = asyncio.Event()
        self._status: tuple[float, dict[str, Any]] | None = None
        self.tokens_per_s = 0.0
        self.dashboard = Dashboard(self.status, lambda: self._loop.gate, lambda: self._loop.good)

    def attach(self, loop: Loop, service: Callable[[], dict[str, Any]]) -> None:
        """Called once, before anything is served: loop and server know each other. service: which version
        serves, and since when."""
        self._loop, self._service = loop, service
        self.trying = Trying(loop, Path(self._source), self._memory, self._until)
        self._effective = Effective(loop, Path(self._source))

    # --- reading -----------------------------------------------------------------------------------

    def spec(self) -> Spec:
        return self._loop.force.spec

    def status(self) -> dict[str, Any]:
        """Made anew after each pass of the loop, and for the traffic in it 20 times a second at most."""
        now = time.monotonic()
        if self._status is None or now - self._status[0] >= STATUS_FRESH_S:
            self._status = (now, self._document())
        return self._status[1]

    def _document(self) -> dict[str, Any]:
        found = documents.document(
            self._loop,
            self._source,
            self._started,
            self.traffic(),
            self._memory.history(),
            self._memory.recent(),
            self._breakers,
        )
        layers = {"overrides": self.trying.overrides(), "try": self.trying.short()}
        return {**found, "service": self._service(), "skills": self.skills.status(), **layers}

    def page(self) -> tuple[bytes, str]:
        return self.dashboard.live.page()

    def page_changes(self) -> AsyncIterator[bytes]:
        return self.dashboard.live.follow()

    def metrics(self, accept: str) -> tuple[bytes, str]:
        return self._metrics.exposition(accept)

    def priority_of(self, model: str) -> int:
        """For records of requests; of a model that the spec no longer names, the default."""
        form = self._loop.force.spec.models.get(model)
        return USUAL_PRIORITY if form is None else form.priority

    def traffic(self) -> documents.Traffic:
        counters = self.router.books.counters
        ttft = list(counters.ttft_ms)
        return documents.Traffic(
            in_flight=self.router.in_flight,
            queued=self.router.queued,
            tokens_per_s=round(self.tokens_per_s, 1),
            ttft_p50_ms=_rounded(documents.percentile(ttft, 0.50)),
            ttft_p95_ms=_rounded(documents.percentile(ttft, 0.95)),
        )

    def memory(self) -> dict[str, Any]:
        return documents.memory(self._loop, self._loop.seen)

    def plan(self) -> list[dict[str, Any]]:
        return documents.plan_lines(self._loop)

    async def config(self, *, origins: bool) -> dict[str, Any]:
        """The effective spec, defaults filled in; what came from the environment as the file words it."""
        spec = self._loop.force.spec
        accepted = self._loop.gate.accepted
        found = {
            "generation": self._loop.gate.generation,
            "digest": accepted.digest if accepted is not None else None,
            "spec": plain(spec, spec.unexpanded),
            "layers": against.layers_of(accepted.text) if accepted is not None else [],
        }
        return {**found, **await self._effective.told()} if origins else found

    def alive(self) -> tuple[bool, str]:
        silent = self._loop.now() - self._loop.last_beat
        if silent > BEAT_LIMIT_S:
            return False, f"the control loop has not looked for {silent:.0f} s"
        return True, ""

    def ready(self) -> tuple[bool, str | None, str]:
        found = self._loop.conditions.get("Ready")
        if found is None:
            return False, "Starting", "LMX has just started"
        if found.status != "True":
            return False, found.reason, found.message
        return True, documents.serving(self._loop.seen) if self._loop.seen is not None else None, ""

    def models(self) -> list[dict[str, Any]]:
        known = documents.models(self._loop)
        return [
            {
                "id": name,
                "aliases": list(model.aliases),
                "source": model.source,
                "role": model.role,
                "active": name == self._loop.force.spec.active,
                "state": known[name]["state"] if name in known else "absent",
                "context": known[name]["context"] if name in known else None,
            }
            for name, model in self._loop.force.spec.models.items()
        ]

    async def admin_models(self) -> list[dict[str, Any]]:
        known = documents.models(self._loop)
        declared = [
            {
                "id": name,
                "declared": True,
                "source": model.source,
                "revision": model.revision,
                "loaded": known.get(name, {}).get("state") in ("ready", "draining"),
                "state": known.get(name, {}).get("state", "absent"),
                "vram_gb": _gb((known.get(name, {}).get("memory") or {}).get("measured_bytes")),
            }
            for name, model in self._loop.force.spec.models.items()
        ]
        named = {(m.source, m.revision) for m in self._loop.force.spec.models.values()}
        named_any = {m.source for m in self._loop.force.spec.models.values() if m.revision is None}
        others = [
            {
                "id": found.repo,
                "declared": False,
                "source": found.repo,
                "revision": found.commit,
                "loaded": False,
                "state": "on_disk",
                "vram_gb": 0.0,
                "size_bytes": found.size_bytes,
            }
            for found in await asyncio.to_thread(inventory)
            if found.repo not in named_any and (found.repo, found.commit) not in named
        ]
        return [*declared, *others]

    def events(self, after: int | None) -> AsyncIterator[dict[str, Any]]:
        return self._feed.follow(after)

    # --- changing ----------------------------------------------------------------------------------

    async def load(self, name: str) -> dict[str, Any]:
        key = self._allowed(name)
        began = time.monotonic()
        if not self._is_loaded(key):
            if self._loop.desired.override(key) == "unload":
                self._loop.force.clear(key)
            if not self._wanted_by_spec(key):
                self._loop.force.override(key, "load")
            await self._until_ready(key)
        return {
            "success": True,
            "model": key,
            "load_time_ms": round((time.monotonic() - began) * 1000),
            "vram_gb": _gb(self._bytes(key)),
        }

    def pull(self, name: str) -> AsyncIterator[dict[str, Any]]:
        key = self._key(name)
        return self._pulls.pull(key, self._loop.force.spec.models[key])

    async def unload(self, name: str | None) -> dict[str, Any]:
        spec = self._loop.force.spec
        if name is None:
            seen = self._loop.seen
            name = (documents.serving(seen) if seen is not None else None) or spec.active
            if name is None:
                raise ApiError("no-model-loaded", "no model is loaded, so there is nothing to unload")
        key = self._allowed(name)
        freed = self._bytes(key)
        if self._loop.desired.override(key) == "load" and self._stays_out(key):
            self._loop.force.clear(key)
        elif self._loop.desired.override(key) != "unload":
            self._loop.force.override(key, "unload")
        await self._until_gone(key, spec.swap.drain_timeout + 30.0)
        active = key == self._loop.force.spec.active
        return {"success": True, "model": key, "freed_vram_gb": _gb(freed), "active": active}

    async def clear_override(self, name: str | None) -> dict[str, Any]:
        self._overrides_allowed()
        tried = name is None and self._loop.force.trial.end("cleared")
        return {"success": True, "cleared": self._loop.force.clear(name) + int(tried)}

    async def drain(self, session_timeout: float, *, wait: bool) -> dict[str, Any]:
        self._overrides_allowed()
        until = time.time() + session_timeout
        self._loop.force.drain(until)
        await self._until(lambda: bool(self.router.table.drained), DRAIN_BEGINS_S, "the drain")
        while wait and self._still_drains(until):  # noqa: ASYNC110 - no event tells of the last request
            await asyncio.sleep(DRAIN_LOOK_S)
        return {"success": True, "session_timeout_s": session_timeout, **self._held()}

    async def undrain(self) -> dict[str, Any]:
        self._overrides_allowed()
        cleared = self._loop.force.clear(WHOLE, ("drain",))
        if cleared:
            await self._until(lambda: not self.router.table.drained, DRAIN_BEGINS_S, "the end of the drain")
        return {"success": True, "cleared": cleared}

    async def warmup(self, name: str | None) -> dict[str, Any]:
        spec = self._loop.force.spec
        if name is None:
            seen = self._loop.seen
            name = (documents.serving(seen) if seen is not None else None) or spec.active
            if name is None:
                raise ApiError("no-model-loaded", "no model is active; name the one to warm up")
        key = self._key(name)
        return await warm(self.router, key, spec.swap.load_timeout, templates.of(spec, spec.models[key]))

    async def sessions(self) -> list[dict[str, Any]]:
        return await self._sessions.held()

    async def drop_sessions(self, name: str | None, model: str | None) -> list[dict[str, Any]]:
        return await self._sessions.drop(name, model)

    async def reconcile(self) -> dict[str, Any]:
        self._retry()
        self._loop.retry_everything()
        return {"success": True, "generation": self._loop.gate.generation}

    def noticed(self) -> None:
        """The loop has finished a pass: whoever waits for an effect looks again."""
        self._status = None
        self._changed.set()
        self._changed = asyncio.Event()

    # --- inside ------------------------------------------------------------------------------------

    def _overrides_allowed(self) -> None:
        if self._loop.gate.frozen:
            raise ApiError("overloaded", "another LMX is taking over; ask again", retry_after=1.0)
        if self._loop.force.spec.server.overrides == "deny":
            raise ApiError("managed_by_file", DENIED)

    def _still_drains(self, until: float) -> bool:
        """Until the sessions have had their time and nothing is left; an end of the drain ends it too."""
        held = self._held()
        left = held["in_flight"] + held["queued"] or time.time() < until
        return bool(left) and bool(self.router.table.drained)

    def _held(self) -> dict[str, int]:
        return {"in_flight": self.router.in_flight, "queued": self.router.queued}

    def _allowed(self, name: str) -> str:
        """The key of a model, for a call that lays an override over the spec."""
        self._overrides_allowed()
        return self._key(name)

    def _key(self, name: str) -> str:
        """The key of a model that the spec names; only those can be reached."""
        spec = self._loop.force.spec
        for key, model in spec.models.items():
            if name in (key, model.source, *model.aliases):
                return key
        names = ", ".join(spec.models) or "none"
        raise ApiError(
            "model_not_found",
            f"the spec names no model {name[:100]!r}; it names: {names}. Add it to lmx.yaml to load it",
            param="model",
        )

    def _wanted_by_spec(self, key: str) -> bool:
        spec = self._loop.force.spec
        return key == spec.active or spec.models[key].residency == "loaded"

    def _stays_out(self, key: str) -> bool:
        """Whether the spec alone leaves it on disk, also when it was loaded a moment ago."""
        return not self._wanted_by_spec(key) and self._loop.force.spec.models[key].residency == "disk"

    def _engines(self, key: str) -> list[int]:
        seen = self._loop.seen
        return [e.memory_bytes for e in seen.engines if e.model == key] if seen is not None else []

    def _bytes(self, key: str) -> int:
        return max(self._engines(key), default=0)

    def _is_loaded(self, key: str) -> bool:
        seen = self._loop.seen
        form = self._loop.force.spec.models[key]
        return seen is not None and any(
            e.model == key and e.digest == form.digest and e.state is EngineState.READY for e in seen.engines
        )

    async def _until_ready(self, key: str) -> None:
        began = self._loop.now()

        def done() -> bool:
            spec = self._loop.force.spec
            if key not in spec.models:
                raise ApiError("model_not_found", f"{key} was removed from the spec while it was loading")
            if self._is_loaded(key):
                return True
            asked = self._loop.desired.override(key)
            if asked == "unload" or (asked is None and not self._wanted_by_spec(key)):
                raise _overtaken(key, "loaded")
            plan = self._loop.plan
            choice = plan.decision.get(key) if plan is not None else None
            if choice is not None and choice.blocked is not None:
                record = self._loop.ledger.get(spec.models[key].own_digest)
                failed_now = record.last_at >= began or choice.blocked.permanent
                if failed_now:
                    if self._loop.desired.override(key) == "load":
                        self._loop.force.clear(key)
                    raise ApiError(choice.blocked.code, choice.blocked.message, param="model")
            return False

        await self._until(done, self._loop.force.spec.swap.load_timeout, key)

    async def _until_gone(self, key: str, timeout: float) -> None:
        def done() -> bool:
            if not self._engines(key):
                return True
            asked = self._loop.desired.override(key)
            named = key in self._loop.force.spec.models
            if asked == "load" or (asked is None and named and not self._stays_out(key)):
                raise _overtaken(key, "unloaded")
            return False

        await self._until(done, timeout, key)

    async def _until(self, done: Callable[[], bool], timeout: float, key: str) -> None:
        try:
            async with asyncio.timeout(timeout):
                passes = self._loop.passes
                while self._loop.passes == passes or not done():
                    await self._changed.wait()
        except TimeoutError:
            raise ApiError(
                "model_swapping", f"{key} is still on its way after {timeout:g} s", retry_after=5.0
            ) from None


def _overtaken(key: str, done: str) -> ApiError:
    return ApiError(
        "model_swapping",
        f"{key} was not {done}: another call or an edit of the file came in between and says otherwise",
        retry_after=5.0,
    )


def _gb(count: int | None) -> float:
    return round((count or 0) / GIB, 3)


def _rounded(value: float | None) -> float | None:
    return round(value, 1) if value is not None else None
