"""The real world at the loop's seam: engines, router, sockets, files and memory of this machine.

`act` begins something and returns. What came of it is seen by the next `observe`; every part calls
`on_change` (the loop's `poke`) when it has something new to show.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from appliance import templates, wire
from appliance.access.desk import Access
from appliance.cache_folder import CacheFolder
from appliance.fetching import Fetching
from appliance.hub import chat_template, files
from appliance.measuring import Sampler
from appliance.server.listeners import Listeners
from appliance.service import Services
from appliance.supervisor.order import Probe
from appliance.supervisor.pool import Engines
from appliance.supervisor.router import Router
from reconciler.actions import (
    Action,
    Bind,
    CancelDownload,
    Configure,
    Download,
    Drain,
    Forget,
    Kill,
    SetTable,
    Spawn,
    Stop,
    Unbind,
)
from reconciler.observed import EngineState, ListenerObs, ModelFiles, Observed
from reconciler.spec import Model, Spec

log = logging.getLogger("lmx.effects")


class RealEffects:
    """base: the folder that relative model paths of the spec start from."""

    def __init__(
        self,
        engines: Engines,
        router: Router,
        listeners: Listeners,
        downloads: Fetching,
        sampler: Sampler,
        services: Services,
        base: Path,
        on_change: Callable[[], None],
        access: Access,
    ) -> None:
        self._engines, self._router, self._listeners = engines, router, listeners
        self._downloads, self._sampler, self._services = downloads, sampler, services
        self._base, self._on_change, self._access = base, on_change, access
        self._loop = asyncio.get_running_loop()
        self._own_digests: dict[str, str] = {}
        self._cache: CacheFolder | None = None  # of the first spec there was
        self._refused_at: dict[tuple[str, int], float] = {}  # sockets that could not be bound, since when
        self._closing: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        return self._loop.time()

    @property
    def cache_path(self) -> Path | None:
        """`cache.path` as it is in force; None before the first look."""
        return None if self._cache is None else self._cache.path

    # --- observe -----------------------------------------------------------------------------------

    async def observe(self, spec: Spec, models: Mapping[str, Model]) -> Observed:
        sample = self._sampler.newest()
        if self._cache is None:
            self._cache = CacheFolder(spec, self._base)
        engines = tuple(
            replace(e, own_digest=self._own_digests.get(e.id, "")) for e in self._engines.observe()
        )
        used = sum(e.memory_bytes for e in engines if e.state is not EngineState.EXITED)
        return Observed(
            now=self.now(),
            engines=engines,
            files=MappingProxyType({digest: self._files(digest, m) for digest, m in models.items()}),
            listeners=self._listening(),
            table=self._router.table,
            memory=replace(sample, used_bytes=used + sample.own_bytes),
            wanted=self._router.wanted,
            last_used=self._router.last_used,
            service=self._services.look(spec, engines, self._router),
            cache_problem=self._cache.problem(spec),
            keys_problem=self._access.look(spec.server.api_keys, spec.models),
        )

    def _files(self, digest: str, model: Model) -> ModelFiles:
        found = files.find(
            model.source,
            model.revision,
            model.adapter,
            self._base,
            code=model.trust_remote_code,
            template=model.template.file,
        )
        return self._downloads.overlay(digest, found)

    def _listening(self) -> tuple[ListenerObs, ...]:
        seen = self._listeners.observed()
        failed = {(x.host, x.port) for x in seen if x.state == "failed"}
        self._refused_at = {k: v for k, v in self._refused_at.items() if k in failed}
        return tuple(replace(x, since=self._refused_at.get((x.host, x.port), 0.0)) for x in seen)

    # --- act ---------------------------------------------------------------------------------------

    async def act(self, action: Action, spec: Spec, model: Model | None) -> None:
        match action:
            case SetTable(table=table):
                self._router.apply(table)
            case Spawn():
                self._spawn(action, spec, model)
            case Configure(engine=engine, limits=limits):
                self._engines.configure(engine, limits)
            case Drain(engine=engine):
                self._engines.drain(engine)
            case Stop(engine=engine, reason=reason, grace=grace, code=code):
                self._engines.stop(engine, reason, grace, code)
            case Kill(engine=engine, failure=failure):
                self._engines.kill(engine, failure)
            case Forget(engine=engine):
                self._engines.forget(engine)
                self._own_digests.pop(engine, None)
            case Download(digest=digest):
                assert model is not None
                wanted = files.wanted(
                    model.source, model.revision, model.adapter, self._base, code=model.trust_remote_code
                )
                self._downloads.start(digest, wanted)
            case CancelDownload(digest=digest):
                self._downloads.cancel(digest)
            case Bind(host=host, port=port):
                await self._bind(host, port)
            case Unbind(host=host, port=port):
                self._unbind(host, port, spec.swap.drain_timeout)
            case _:
                raise TypeError(f"no effect for {action!r}")

    def _spawn(self, action: Spawn, spec: Spec, model: Model | None) -> None:
        assert model is not None
        path = files.locate(model.source, model.revision, self._base)
        if path is None:
            # Gone between observation and action: the next look sees it as absent.
            log.warning("%s: its files are gone", action.model)
            return
        try:
            template = chat_template.read(model.template.file, self._base)
        except chat_template.BadTemplate as error:  # the next look sees it as broken
            log.warning("%s: %s", action.model, error)
            return
        adapter = files.locate(model.adapter, None, self._base) if model.adapter is not None else None
        load = wire.Load(
            model=action.model,
            path=os.fspath(path),
            adapter=os.fspath(adapter) if adapter is not None else None,
            trust_remote_code=model.trust_remote_code,
            kv_bits=model.kv_bits,
            role=model.role,
            cache_path=None if self.cache_path is None else os.fspath(self.cache_path),
            chat_template=template,
        )
        probe = Probe(model.probe.prompt, model.probe.max_tokens, model.probe.within)
        engine = self._engines.spawn(
            action.model,
            action.digest,
            load,
            action.limits,
            probe,
            spec.swap.load_timeout,
            warmup=templates.of(spec, model),
        )
        self._own_digests[engine] = action.own_digest

    async def _bind(self, host: str, port: int) -> None:
        try:
            await self._listeners.open(host, port)
        except OSError as error:
            self._refused_at[host, port] = self.now()
            log.warning("%s", error)

    def _unbind(self, host: str, port: int, grace: float) -> None:
        async def close() -> None:
            await self._listeners.close(host, port, grace)
            self._on_change()

        task = self._loop.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
