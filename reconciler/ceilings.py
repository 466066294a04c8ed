"""Question 6: under which limits does each engine run? Pure.

What the spec declares and the forecast found, lowered by the steps that are in force. Each engine gets an
allowance besides, the bytes that MLX may hold in it: what one request at its context needs, and an even
share of what is left under `memory.budget x memory.warning` once everything has that. It shrinks before a
newcomer loads, because every chosen model counts from the moment that it is chosen. Part of it may be lent to
the engine's prompt cache, see `lending`.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from reconciler import lending
from reconciler.choice import Choice, Desired
from reconciler.forecast import PROCESS
from reconciler.forms import form_of
from reconciler.kv_shape import PREFILL_CHUNK
from reconciler.observed import EngineObs, EngineState, Limits, Observed
from reconciler.pressure import context_cap
from reconciler.pressure import rows as rows_under
from reconciler.sizing import Size, size_of
from reconciler.spec import Model
from reconciler.stand_in import passing
from reconciler.straining import allowance

QUANTUM = 16 * 2**20  # shares are whole multiples, so that a small change brings no new orders
# What an engine takes into account and a forecast does not: it copies a small batch whole, not by layers.
COPIES = 32 * 2**20
LEAST_BUFFERS, MOST_BUFFERS = 32 * 2**20, 2**30  # freed buffers that an engine may keep, bytes
WIRED_SHARE = 0.6  # of the working set: under `memory.wired: auto` only a model beyond this is wired


@dataclass(frozen=True)
class Ceilings:
    """choices: with limits. limits: of every engine that stays and for which they can be computed, by id."""

    choices: list[Choice]
    limits: Mapping[str, Limits]


def ceilings(desired: Desired, seen: Observed, choices: list[Choice], kept: Set[str], limit: int) -> Ceilings:
    lasting = [c for c in choices if _lasts(c, choices)]
    names = {c.name for c in lasting}
    mine = {c.engine.id for c in lasting if c.engine is not None}
    taken = sum(_need(c) for c in lasting)
    others = [e for e in seen.engines if e.state is not EngineState.EXITED and e.id not in mine]
    held: dict[str, int] = {}  # engines that answer until their successor is ready, with what they need
    for engine in others:
        need = _need_as_it_runs(engine, desired, seen) if engine.id in kept else None
        if need is not None:
            held[engine.id] = need
        taken += allowance(engine) if need is None else need
    share = max(0, limit - taken) // max(1, len(lasting) + len(held)) // QUANTUM * QUANTUM
    cached = lending.share_of(desired, seen, choices, len(lasting) + len(others))
    out, limits = [], {}
    for choice in choices:
        if choice.name in names:
            choice = _with_limits(choice, desired, share, cached)
            if choice.engine is not None and choice.limits is not None:
                limits[choice.engine.id] = choice.limits
        out.append(choice)
    for engine in others:
        if engine.id in held and engine.limits is not None:
            limits[engine.id] = _shrunk(engine, engine.limits, held[engine.id] + share, cached, desired)
        elif engine.limits is not None and (lending.given_back(engine) or engine.id in kept):
            most = 0 if lending.given_back(engine) else cached  # its files have gone: no more is known
            held_now = engine.limits.cache_memory_bytes
            limits[engine.id] = replace(engine.limits, cache_memory_bytes=min(held_now, most))
    return Ceilings(out, limits)


def _lasts(choice: Choice, choices: list[Choice]) -> bool:
    """It runs, or is to run, and not only until another is ready; and its files say what it needs."""
    if choice.form is None or choice.size is None or choice.size.problem is not None:
        return False
    return choice.context > 0 and not passing(choice, choices)


def _need(choice: Choice) -> int:
    assert choice.size is not None
    return choice.size.at(choice.context) + COPIES


def _need_as_it_runs(engine: EngineObs, desired: Desired, seen: Observed) -> int | None:
    form = form_of(engine, desired)
    if form is None or engine.limits is None:
        return None
    size = size_of(form, seen.files.get(engine.digest), desired.spec)
    return size.at(engine.limits.context) + COPIES if size.problem is None else None


def _shrunk(engine: EngineObs, limits: Limits, need: int, cached: int, desired: Desired) -> Limits:
    """Of an engine that leaves soon: it gives back what the newcomer may need, and nothing else changes.

    It still serves all requests until then: of what is left it keeps its share.
    """
    memory = min(limits.memory_bytes or need, max(1, need - PROCESS))
    buffers = min(limits.buffer_cache_bytes, _buffers(memory, desired))
    shrunk = replace(limits, memory_bytes=memory, buffer_cache_bytes=buffers)
    return _with_cache(shrunk, cached, engine.info.weights_bytes if engine.info is not None else 0, desired)


def _with_cache(limits: Limits, share: int, weights: int, desired: Desired) -> Limits:
    memory = lending.within(limits, share, weights, COPIES)
    return replace(limits, cache_memory_bytes=memory, cache_disk_bytes=desired.spec.cache.disk)


def _with_limits(choice: Choice, desired: Desired, share: int, cached: int) -> Choice:
    form, size = choice.form, choice.size
    assert form is not None
    assert size is not None
    strain, context, why = desired.strain.pressure, choice.context, choice.context_why
    cap, reason = context_cap(strain, desired.spec)
    if cap is not None and cap < context:
        context, why = cap, reason
    rows = rows_under(strain, form.concurrency)
    memory = max(1, _need(choice) - PROCESS + share)
    limits = Limits(
        context=context,
        context_declared=form.context if isinstance(form.context, int) else None,
        concurrency=rows,
        prefill_chunk=form.prefill_chunk if isinstance(form.prefill_chunk, int) else PREFILL_CHUNK,
        sampling=sampling_defaults(form),
        force=form.sampling.force,
        enable_thinking=form.template.enable_thinking,
        memory_bytes=memory,
        workspace_bytes=size.workspace(context),
        buffer_cache_bytes=_buffers(memory, desired),
        wired_bytes=_wired(choice.engine, size, _need(choice), desired),
        prefill_auto=form.prefill_chunk == "auto",
        thinking_budget=form.thinking_budget,
        tool_parser=form.tool_parser,
    )
    limits = _with_cache(limits, cached, size.weights, desired)
    lowered = f"memory: {rows} of {form.concurrency} rows" if rows < form.concurrency else ""
    return replace(choice, limits=limits, context_why=why, concurrency_why=lowered)


def _buffers(memory: int, desired: Desired) -> int:
    """Part of the allowance: MLX gives freed buffers back when it needs the room itself."""
    if "drop_caches" in desired.strain.steps:
        return 0
    return max(LEAST_BUFFERS, min(MOST_BUFFERS, memory // 8))


def _wired(engine: EngineObs | None, size: Size, need: int, desired: Desired) -> int:
    """Known once the engine has said what Metal recommends; there is nothing to wire without Metal."""
    info = engine.info if engine is not None else None
    if info is None or info.working_set_bytes == 0:
        return 0
    weights = min(info.weights_bytes or size.weights, info.working_set_bytes)
    match desired.spec.memory.wired:
        case "off":
            return 0
        case "weights":
            return weights
        case "recommended":
            return info.working_set_bytes
        case _:
            return weights if need > WIRED_SHARE * info.working_set_bytes else 0


def sampling_defaults(form: Model) -> Mapping[str, Any]:
    values = form.sampling.model_dump(exclude={"force"})
    return {k: v for k, v in values.items() if v is not None}
