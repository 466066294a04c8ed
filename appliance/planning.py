"""`lmx plan`: what a file would do, against the running appliance or an empty machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from appliance import against, host
from appliance.hub import files
from reconciler.backoff import Ledger
from reconciler.changes import changes
from reconciler.decide import Desired, forms
from reconciler.fields import without_defaults
from reconciler.loader import SpecError, load_text
from reconciler.observed import (
    CacheObs,
    EngineObs,
    EngineState,
    ListenerObs,
    MemoryObs,
    Observed,
    Route,
    RoutingTable,
)
from reconciler.plan import plan
from reconciler.preview import preview as run_forward
from reconciler.spec import Spec


class NotComparable(Exception):
    """What runs there cannot be read here, and why."""


def preview(
    file: Path, status: Mapping[str, Any] | None, config: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Steps as records: mark, action, model, field, outage, reason.

    Raises SpecError, NotComparable.

    status, config: `/status` and `/admin/config` of the running appliance; None: nothing runs.
    """
    new = against.read(file, config).spec
    if status is None or config is None:
        seen = _observed(Desired(new), file.parent)
        return [asdict(step) for step in run_forward(Desired(new), seen)]
    old = _running(config, file)
    before = _steady(Desired(old, old), status, file.parent)
    desired = Desired(new, old)
    seen = _observed(desired, file.parent, before)
    steps = [asdict(step) for step in run_forward(desired, seen)]
    if not steps and old != new:
        # Nothing to load, route or bind: what changed is read when it is needed.
        steps = [
            {"mark": mark, "action": "set", "model": "", "field": path, "outage": "none", "reason": reason}
            for path, mark, reason in _plain_changes(old, new)
        ]
    return steps


def _running(config: Mapping[str, Any], file: Path) -> Spec:
    """Names of the environment come unexpanded, and mean here what they mean there."""
    try:
        text = yaml.safe_dump(without_defaults(Spec, config["spec"]), allow_unicode=True)
        return load_text(text, path=file, env=os.environ).spec
    except (SpecError, KeyError) as error:
        problems = error.problems if isinstance(error, SpecError) else ()
        found = "; ".join(problem.message for problem in problems) or f"{error} is not known here"
        raise NotComparable(
            f"what the appliance runs cannot be read here: {found}. Set the LMX_* variables that its file "
            "names, and use the version of LMX that it runs (`lmx status` tells it)"
        ) from error


def _steady(desired: Desired, status: Mapping[str, Any], base: Path) -> Observed:
    """What runs, as the status tells it: engines by model, each in the form its digest names."""
    engines = []
    there = _observed(desired, base).files
    for name, model in status["models"].items():
        form = desired.spec.models.get(name)
        if form is None or model["state"] != "ready":
            continue
        engines.append(
            EngineObs(
                id=f"{name}-now",
                model=name,
                digest=form.digest,
                own_digest=form.own_digest,
                state=EngineState.READY,
                since=0.0,
                memory_bytes=model["memory"]["measured_bytes"] or 0,
                template=there[form.digest].template,
                cache=CacheObs(memory_bytes=model["memory"].get("cached_bytes") or 0),
            )
        )
    server = desired.spec.server
    actual = status["active"]["actual"]
    routes = {e.model: Route(e.model, "ready", e.id) for e in engines}
    seen = _observed(desired, base)
    seen = Observed(
        now=0.0,
        engines=tuple(engines),
        files=seen.files,
        listeners=(ListenerObs(server.host, server.port, "open"),),
        table=RoutingTable(active=actual, routes=MappingProxyType(routes)),
        memory=_running_memory(desired.spec, status, seen.memory),
    )
    return _with_limits(desired, seen)


def _running_memory(spec: Spec, status: Mapping[str, Any], memory: MemoryObs) -> MemoryObs:
    """What `auto` means there: its engines have told the appliance what Metal allows, and nobody told us."""
    budget = status["memory"]["budget_bytes"]
    if spec.memory.budget != "auto" or not budget:
        return memory
    return replace(memory, auto_bytes=budget)


def _with_limits(desired: Desired, seen: Observed) -> Observed:
    """Give each engine the limits the old spec asks for, and the router the orders it implies."""
    found = plan(desired, seen, Ledger())
    engines = tuple(replace(e, limits=found.decision.limits.get(e.id)) for e in seen.engines)
    return replace(seen, engines=engines, table=found.table)


def _observed(desired: Desired, base: Path, before: Observed | None = None) -> Observed:
    found = {
        digest: files.find(
            m.source, m.revision, m.adapter, base, code=m.trust_remote_code, template=m.template.file
        )
        for digest, m in forms(desired).items()
    }
    if before is None:
        return Observed(now=0.0, files=MappingProxyType(found), memory=host.platform().read())
    return Observed(
        now=0.0,
        engines=before.engines,
        files=MappingProxyType(found),
        listeners=before.listeners,
        table=before.table,
        memory=before.memory,
    )


def _plain_changes(old: Spec, new: Spec) -> list[tuple[str, str, str]]:
    marks = {"hot": "~", "reload": "+/-", "rebind": "!", "restart": "!!"}
    return [(c.path, marks[c.change], f"{c.old} -> {c.new}") for c in changes(old, new)]
