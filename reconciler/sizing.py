"""What a model will need, in the form the decision asks for it. Pure; the sums are in `forecast.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from reconciler import forecast
from reconciler.digests import digest
from reconciler.encoder_shape import input_limit
from reconciler.kv_shape import PREFILL_CHUNK, own_context
from reconciler.observed import MemoryObs, ModelFiles
from reconciler.spec import Model, Spec


@dataclass(frozen=True)
class Size:
    """Bytes a model needs at a context, in tokens. floor_context: the least it may be loaded with.

    A declared context is a promise, so it is its own floor. `auto` may shrink to 4,096 to make room.
    problem: why nothing can be computed; such a model is not started.
    """

    floor_context: int
    most_context: int
    at: Callable[[int], int]
    arithmetic: Callable[[int], str]
    fit: Callable[[int], tuple[int, str]]
    workspace: Callable[[int], int]  # of that, bytes that a chunk of prompt needs while it runs
    weights: int = 0
    problem: str | None = None

    @property
    def at_floor(self) -> int:
        return self.at(self.floor_context)

    def context_in(self, room: int) -> tuple[int, str]:
        """The effective ceiling in tokens when this model may use `room` bytes, and why."""
        return self.fit(room)


def limit_bytes(spec: Spec, memory: MemoryObs) -> int:
    """What engines may use together: `memory.budget` x `memory.warning`."""
    return int(forecast.budget(spec.memory.budget, memory) * spec.memory.warning.fraction)


def size_of(form: Model, files: ModelFiles | None, spec: Spec) -> Size:
    """Never raises: a model whose files say too little has a `problem`."""
    ceiling = spec.context.ceiling if isinstance(spec.context.ceiling, int) else None
    if files is None or files.state != "present":
        return _unknown("its files are not there yet")
    key = (files.fingerprint, files.path, digest(form))
    try:
        encodes = form.role != "chat"
        return _priced(_Files(key, files), form.context, ceiling, _chunk(form), form.kv_bits, encodes)
    except forecast.ForecastError as error:
        return _unknown(str(error))


def _chunk(form: Model) -> int:
    return form.prefill_chunk if isinstance(form.prefill_chunk, int) else PREFILL_CHUNK


def _unknown(problem: str) -> Size:
    return Size(
        0, 0, lambda _: 0, lambda _: problem, lambda _: (0, problem), lambda _: 0, problem=problem
    )  # fmt: skip


@dataclass(frozen=True)
class _Files:
    """Files, hashed by what identifies them: the same sums are asked for in every pass."""

    key: tuple[str, str | None, str]
    files: ModelFiles

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Files) and self.key == other.key


@lru_cache(maxsize=64)
def _priced(
    held: _Files, context: int | str, ceiling: int | None, chunk: int, kv_bits: int | None, encodes: bool
) -> Size:
    files = held.files
    declared: int | Literal["auto"] = context if isinstance(context, int) else "auto"
    own = input_limit(files.config) if encodes else own_context(files.config)

    @lru_cache(maxsize=256)
    def price(tokens: int) -> forecast.Forecast:
        return forecast.forecast(files, context=tokens, prefill_chunk=chunk, kv_bits=kv_bits, encodes=encodes)

    @lru_cache(maxsize=64)
    def fit(room: int) -> tuple[int, str]:
        found = forecast.fit_context(
            files, room, declared, own, ceiling, prefill_chunk=chunk, kv_bits=kv_bits, encodes=encodes
        )
        if found.fits:
            return found.effective, found.why
        return floor, f"the least it may have; {found.why}"

    if declared != "auto":
        if own is not None and declared > own:
            raise forecast.ForecastError(
                f"context {declared:,} is more than the model's own maximum of {own:,}; lower it, or use auto"
            )
        floor = most = min(declared, ceiling) if ceiling else declared
    else:
        most = min([n for n in (own, ceiling) if n] or [forecast.LEAST_CONTEXT])
        floor = min(forecast.LEAST_CONTEXT, most)
    least = price(floor)  # raises here, not later, when the config says too little
    return Size(
        floor_context=floor,
        most_context=most,
        at=lambda tokens: price(tokens).total,
        arithmetic=lambda tokens: price(tokens).arithmetic,
        fit=fit,
        workspace=lambda tokens: price(tokens).workspace,
        weights=least.weights,
    )
