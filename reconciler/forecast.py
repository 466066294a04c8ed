"""How many bytes a model will need, before anything is loaded.

Three sums: the weights (as the files' own headers say), the KV cache of one request at its context,
and the workspace a prefill chunk needs while it runs. Pure: everything comes in as arguments.
`tests/reconciler/forecast` holds these sums against real allocations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reconciler.encoder_shape import encoder_workspace
from reconciler.kv_shape import (
    KV_STEP,
    PREFILL_CHUNK,
    Config,
    ForecastError,
    dtype_bytes,
    kv_bytes_per_token,
    own_context,
    round_up,
    understood,
)
from reconciler.observed import MemoryObs, ModelFiles
from reconciler.prefill import DEFAULT_BACKEND, Backend, workspace
from reconciler.units import Share

__all__ = [
    "ContextFit",
    "Forecast",
    "ForecastError",
    "budget",
    "fit_context",
    "forecast",
    "kv_bytes_per_token",
    "own_context",
    "rows_bytes",
    "weights",
    "workspace",
]

KIB, MIB, GIB = 1024, 1024**2, 1024**3
AUTO_BUDGET = Share(0.75)
LEAST_CONTEXT = 4096  # `context: auto` never picks less, except where the model itself has less
# An engine process apart from MLX's own memory: 93 MiB resident on Linux with the demo model loaded;
# tokenizers of large vocabularies take some more.
PROCESS = 128 * MIB


@dataclass(frozen=True)
class Forecast:
    """Bytes. `total` is what the engine process will hold with one request at its full context."""

    weights: int
    kv_one_request: int
    workspace: int
    process: int
    total: int
    arithmetic: str


@dataclass(frozen=True)
class ContextFit:
    """The ceiling a model gets. effective: tokens, 0 where nothing fits. why: for people."""

    effective: int
    why: str
    fits: bool
    arithmetic: str
    forecast: Forecast | None = None


def budget(spec_budget: Literal["auto"] | Share | int, memory: MemoryObs) -> int:
    """Bytes that LMX may use. `auto` is what the host says it means, else three quarters of the memory."""
    if isinstance(spec_budget, int):
        return spec_budget
    if spec_budget == "auto" and memory.auto_bytes > 0:
        return memory.auto_bytes
    share = AUTO_BUDGET if spec_budget == "auto" else spec_budget
    return int(share.fraction * memory.total_bytes)


# --- weights --------------------------------------------------------------------------------------


@understood
def weights(files: ModelFiles) -> int:
    """Bytes of weights and adapter once loaded.

    The headers' own sum where they could be read. A model still on its way: the size of the download.
    Else the rule of thumb `parameters x bits / 8 x 1.2`, whose fifth covers scales and odd layers.
    """
    if files.weights_bytes:
        return files.weights_bytes + files.adapter_bytes
    if files.progress[1]:
        return files.progress[1] + files.adapter_bytes
    if files.parameters:
        return rule_of_thumb(files.parameters, _weight_bits(files.config)) + files.adapter_bytes
    raise ForecastError("the size of the weights is not known: no safetensors headers were read")


def rule_of_thumb(parameters: int, bits: int) -> int:
    return parameters * bits * 12 // 80


def _weight_bits(config: Config) -> int:
    for key in ("quantization", "quantization_config"):
        quantization = config.get(key)
        bits = quantization.get("bits") if isinstance(quantization, Mapping) else None
        if isinstance(bits, int):
            return bits
    return 8 * dtype_bytes(config)


def rows_bytes(
    config: Config, lengths: Sequence[int], *, kv_bits: int | None = None, element_bytes: int | None = None
) -> int:
    """Bytes of one batch. Every row is padded to the longest, so one long row makes all the others long."""
    if not lengths:
        return 0
    shape = kv_bytes_per_token(config, kv_bits=kv_bits, element_bytes=element_bytes)
    return len(lengths) * shape.row(max(lengths))


# --- together -------------------------------------------------------------------------------------


def forecast(
    files: ModelFiles,
    *,
    context: int,
    prefill_chunk: int = PREFILL_CHUNK,
    kv_bits: int | None = None,
    backend: Backend = DEFAULT_BACKEND,
    encodes: bool = False,
) -> Forecast:
    """What an engine of these files will hold with one request of `context` tokens. Raises ForecastError.

    encodes: it computes vectors or scores, and keeps no cache.
    """
    if encodes:
        return _encoder(files, context, backend)
    size = dtype_bytes(files.config, files)
    shape = kv_bytes_per_token(files.config, kv_bits=kv_bits, element_bytes=size)
    held = weights(files)
    kv = shape.row(context, prefill_chunk)
    work = workspace(
        files.config, prefill_chunk, 1, context=context, backend=backend, element_bytes=size, kv_bits=kv_bits
    )
    total = held + kv + work + PROCESS
    grown = f"KV {context:,} tokens"
    if shape.per_token:
        grown += f" x {_human(shape.per_token)}"
    if kv_bits is not None:
        plain = kv_bytes_per_token(files.config, element_bytes=size)
        grown += f" (kv_bits {kv_bits} saves {_human(plain.row(context, prefill_chunk) - kv)})"
    fixed = kv - shape.per_token * round_up(context)
    if fixed > 0:
        grown += f" + {_human(fixed)} fixed" if shape.per_token else f", {_human(fixed)} fixed"
    line = (
        f"weights {_human(held)} + {grown} = {_human(kv)} + workspace {_human(work)}"
        f" + process {_human(PROCESS)} = {_human(total)}"
    )
    return Forecast(held, kv, work, PROCESS, total, line)


def _encoder(files: ModelFiles, context: int, backend: Backend) -> Forecast:
    """On the CPU backend an encoder computes in float32, whatever its files hold."""
    size, held = dtype_bytes(files.config, files), weights(files)
    if backend == "cpu" and not files.config.get("quantization"):
        size, held = 4, max(held, 4 * files.parameters)
    work = encoder_workspace(files.config, context=context, backend=backend, element_bytes=size)
    total = held + work + PROCESS
    line = (
        f"weights {_human(held)} + workspace {_human(work)} (inputs of up to {context:,} tokens)"
        f" + process {_human(PROCESS)} = {_human(total)}"
    )
    return Forecast(held, 0, work, PROCESS, total, line)


def fit_context(
    files: ModelFiles,
    room_bytes: int,
    declared: int | Literal["auto"],
    model_max: int | None = None,
    ceiling: int | None = None,
    *,
    prefill_chunk: int = PREFILL_CHUNK,
    kv_bits: int | None = None,
    backend: Backend = DEFAULT_BACKEND,
    encodes: bool = False,
) -> ContextFit:
    """The ceiling that fits into `room_bytes`: the warning threshold less what stays loaded.

    A declared context is a promise: it fits as it stands, or the model does not. `auto` takes the
    largest that fits, up to the model's own maximum and the ceiling for all models, and never under
    4,096 (or the model's maximum, where that is smaller). model_max None: as config.json says.
    """

    def price(tokens: int) -> Forecast:
        how: dict[str, Any] = {"prefill_chunk": prefill_chunk, "kv_bits": kv_bits, "backend": backend}
        return forecast(files, context=tokens, encodes=encodes, **how)

    def most_that_fits(least: int, most: int) -> int:
        """By bisection in steps of the cache; 0 where even `least` does not fit."""
        if price(least).total > room_bytes:
            return 0
        low, high = least // KV_STEP, most // KV_STEP
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if price(middle * KV_STEP).total <= room_bytes else (low, middle - 1)
        return max(low * KV_STEP, least)

    own = model_max or own_context(files.config)
    known = [(n, why) for n, why in ((own, "the model's own maximum"), (ceiling, "context.ceiling")) if n]
    if declared != "auto":
        known.append((declared, "as declared"))
    most, why = min(known) if known else (LEAST_CONTEXT, "config.json names no maximum")
    least = min(LEAST_CONTEXT, most)
    try:
        wanted = price(most)
        if declared != "auto" and own is not None and declared > own:
            why = f"context {declared:,} is more than the model's own maximum of {own:,}"
            return ContextFit(0, why, False, wanted.arithmetic, wanted)
        if wanted.total <= room_bytes:
            return ContextFit(most, f"{most:,} tokens: {why}", True, _against(wanted, room_bytes), wanted)
        found = most_that_fits(least, most)
        if declared == "auto" and found:
            best = price(found)
            why = f"{found:,} tokens: the most that fits in {_human(room_bytes)}"
            return ContextFit(found, why, True, _against(best, room_bytes), best)
        asked = wanted if declared != "auto" else price(least)
        tokens = most if declared != "auto" else least
        why = f"{tokens:,} tokens of context need {_human(asked.total - room_bytes)} more than there is"
        why += f"; the most that fits is {found:,}" if found else ""
        return ContextFit(0, why, False, _against(asked, room_bytes), asked)
    except ForecastError as error:
        return ContextFit(0, str(error), False, "")


def _against(price: Forecast, room: int) -> str:
    return f"{price.arithmetic} {'<=' if price.total <= room else '>'} room {_human(room)}"


def _human(size: int) -> str:
    """Binary units, about three figures: 17.2 GiB, 1.9 GiB, 56 KiB."""
    if size >= GIB:
        return f"{size / GIB:,.1f} GiB"
    for unit, factor in (("MiB", MIB), ("KiB", KIB)):
        if size >= factor:
            value = size / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{size} B"
