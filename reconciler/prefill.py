"""The workspace: bytes that live only while a chunk of prompt, or one step, is computed.

Fitted to measurements, not derived: MLX's peak minus weights minus cache, on the CPU backend, with random
float32 models of 128 to 768 wide, 2 to 8 layers, chunks of 128 to 512 and contexts of 256 to 4,096
tokens; each factor comes from pairs that differ in one size. The peak does not depend on the number of
layers. Over Qwen3 shapes the sum came to 1.01 to 1.11 times the measured one, over 15 other
architectures to 0.98 to 1.4 times; `tests/reconciler/forecast` measures again. On Metal attention is
fused for some head sizes, and the score matrix never exists; the rest is taken to be the same. A quantised
cache is dequantised for a chunk's attention, one layer at a time. Pure.
"""

from __future__ import annotations

import sys
from typing import Literal

from reconciler.kv_shape import (
    NAMES,
    PREFILL_CHUNK,
    SINKS,
    WRITTEN_OUT,
    Config,
    dtype_bytes,
    head_dim,
    kv_bytes_per_token,
    language_part,
    layers,
    need,
    number,
    state_space,
    understood,
)

Backend = Literal["metal", "cpu"]
DEFAULT_BACKEND: Backend = "metal" if sys.platform == "darwin" else "cpu"

# Head sizes for which Metal's attention kernel never writes the score matrix to memory in prefill.
_FUSED_HEADS = frozenset({64, 80, 128})
# Attention with sinks, unfused, copies the scores to append and to drop the sink's column.

# Elements per token of the chunk, as multiples of the width named.
_HIDDEN, _QUERIES, _MLP, _CLAMPED_MLP, _INNER = 6, 6, 2.5, 5, 16
_SCAN_STEP = 256  # mlx-lm's state-space scan works through a chunk in pieces of this many tokens
_SCAN_COPIES = 3.5  # of heads x piece x chunk, in float32
_SERIAL_COPIES = 13  # of chunk x channels x states: the first Mamba generation keeps every token's state


@understood
def workspace(
    config: Config,
    prefill_chunk: int = PREFILL_CHUNK,
    rows: int = 1,
    *,
    context: int = 4096,
    backend: Backend = DEFAULT_BACKEND,
    element_bytes: int | None = None,
    kv_bits: int | None = None,
) -> int:
    """Bytes for a chunk of `rows` prompts whose cache holds `context` tokens. Raises ForecastError.

    Prefill evaluates caches only, so no logits of a chunk exist: those of a step are rows x vocabulary.
    """
    text = language_part(config)
    size = element_bytes or dtype_bytes(config)
    chunk = min(prefill_chunk, context)
    kinds = layers(text)
    mixed = 0
    if any(kind in ("full", "both") or isinstance(kind, int) for kind in kinds):
        mixed = _attention(text, chunk, context, size, backend)
    if "both" in kinds:
        mixed += _scan(text, chunk)
    elif "state" in kinds:
        mixed = max(mixed, _scan(text, chunk))
    per_token = _HIDDEN * need(text, "hidden_size") + int(_mlp(text))
    shape = kv_bytes_per_token(config, kv_bits=kv_bits, element_bytes=size)
    growth = context * shape.layer_per_token  # a cache that grows is copied, one layer at a time
    if kv_bits is not None:
        growth += context * kv_bytes_per_token(config, element_bytes=size).layer_per_token
    mask = chunk * context
    logits = 3 * 4 * number(text, "vocab_size")
    return rows * (chunk * per_token * size + mixed + growth + mask + logits)


def _attention(text: Config, chunk: int, context: int, size: int, backend: Backend) -> int:
    heads, width = need(text, "num_attention_heads"), head_dim(text)
    kind = str(text.get("model_type"))
    if isinstance(text.get("kv_lora_rank"), int):
        # MLA in prefill expands the latent for the whole context, and its positions are a mask of scores.
        expanded = number(text, "qk_nope_head_dim", default=width) + number(text, "v_head_dim", default=width)
        scores = heads * context * (2 * chunk + expanded) * size
    else:
        windows = [window for window in layers(text) if isinstance(window, int)]
        full = any(layer in ("full", "both") for layer in layers(text))
        seen = context if full or not windows else min(context, max(windows) + chunk)
        fused = backend == "metal" and width in _FUSED_HEADS and kind not in WRITTEN_OUT
        copies = 0 if fused else 3 if kind in SINKS else 1
        scores = copies * heads * chunk * seen * size
    return scores + _QUERIES * heads * width * chunk * size


def _scan(text: Config, chunk: int) -> int:
    """A layer that keeps a state instead of keys and values; Mamba's are computed in float32."""
    if number(text, "linear_num_value_heads") or "conv_L_cache" in text:
        return 0  # gated delta and short convolutions stay within what attention takes
    space = state_space(text)
    if not space.heads:
        return _SERIAL_COPIES * chunk * space.inner * space.states * 4
    pairs = int(_SCAN_COPIES * space.heads * min(chunk, _SCAN_STEP) * chunk)
    return (pairs + _INNER * chunk * space.inner) * 4


def _mlp(text: Config) -> float:
    """Elements per token in the widest MLP; of a mixture: of all chosen experts and the shared one."""
    hidden = need(text, "hidden_size")
    factor = _CLAMPED_MLP if text.get("model_type") == "gpt_oss" else _MLP
    dense = number(text, *NAMES["intermediate_size"], default=4 * hidden)
    chosen = number(text, "num_experts_per_tok", "top_k_experts")
    expert = number(text, "moe_intermediate_size", default=dense) if chosen else 0
    # Each chosen expert also gets its own copy of the hidden state.
    mixture = chosen * (expert + hidden) + number(text, "shared_expert_intermediate_size")
    return factor * max(dense, mixture)
