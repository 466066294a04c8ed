"""MLX's CPU backend where it is slowest: the exponentials of attention and of gates, one element at a time.

A chunk of a long prompt spends most of its time in the softmax of its attention: 350 tokens behind 6,000
others took 53 ms of one core for it, and 24 for both of its matrix products. `exp` here is multiplications
and additions alone, which the compiler vectorises: 7 ms for the same 4.4 million elements, within 3e-6 of
the exact value, which is 1 at most. Keys that a token may not see are hardly computed, and scores come in
blocks, so that a long chunk needs no more memory than with MLX's own.

`install` puts `attention` in the place of `mx.fast.scaled_dot_product_attention`, `rope` in that of
`mx.fast.rope`, `swiglu` in that of mlx-lm's and `gelu_approx` in that of MLX's, for the whole process and
only on the CPU backend. What they do not cover goes to MLX's own, unchanged: other types than float32, masks
of batches, sinks, few queries, and the gates of a few short rows. Metal is never touched.

mx.compile makes one loop of at most eleven operations, constants counted; of a longer chain it makes two, and
the second gets its constants as arrays, which no compiler vectorises (27 ms). Hence the short pieces below.
It needs a C++ compiler; without one the same sums run one by one.
"""

from __future__ import annotations

import functools
import logging
import math
import shutil
from collections.abc import Callable
from typing import Any

import mlx.core
import mlx.nn
import mlx_lm.models.activations

log = logging.getLogger(__name__)
mx: Any = mlx.core
nn: Any = mlx.nn

LOWEST = -40.0  # e**-40 is nothing beside 1 in float32: what is further below its row's best counts as this
LEAST_QUERIES = 16  # fewer gain nothing
LEAST_GATES = 2**13  # elements: below, launching the pieces costs about what they save
BLOCKS = (2**18, 2**20)  # scores at a time, least and most: 1 and 4 MiB

Function = Callable[..., Any]


COMPILES = any(map(shutil.which, ("c++", "g++", "clang++")))


def _fused(function: Function) -> Function:
    if not COMPILES:
        return function
    compiled: Function = mx.compile(function, shapeless=True)
    return compiled


def _squared(value: Any) -> Any:
    for _ in range(6):
        value = value * value
    return value


# e**x = (e**(x / 64))**64, and that by Taylor's polynomial of degree 5.
_small = _fused(lambda x: mx.maximum(x, LOWEST) * (1 / 64))
_upper = _fused(lambda z: ((z * (1 / 120) + 1 / 24) * z + 1 / 6) * z + 0.5)
_lower = _fused(lambda z, value: (value * z + 1.0) * z + 1.0)
_whole = _fused(_squared)
_inner = _fused(lambda x: (x * x * 0.044715 + 1.0) * x * (2 * math.sqrt(2 / math.pi)))
_sigmoid = _fused(lambda x, small: mx.where(x >= 0, 1.0, small) / (1.0 + small))


def exp(x: Any) -> Any:
    """e**x for float32 x <= 0."""
    z = _small(x)
    return _whole(_lower(z, _upper(z)))


def attention(
    q: Any, k: Any, v: Any, *, scale: float, mask: Any = None, sinks: Any = None, **more: Any
) -> Any:
    """As mx.fast.scaled_dot_product_attention. q: (rows, heads, L, size); k, v: (rows, groups, K, size)."""
    rows, heads, length, size = q.shape
    keys = k.shape[2]
    causal = isinstance(mask, str) and mask == "causal"
    window = None if mask is None or causal else _window(mask, rows, length, keys)
    known = mask is None or causal or window is not None
    plain = known and sinks is None and not more and q.dtype == k.dtype == v.dtype
    if not plain or q.dtype != mx.float32 or not LEAST_QUERIES <= length <= keys:
        return _mlx_attention(q, k, v, scale=scale, mask=mask, sinks=sinks, **more)
    q = (q * scale).reshape(rows, k.shape[1], -1, length, size)
    step = max(LEAST_QUERIES, _block_size(rows * heads * length * keys) // (rows * heads * keys))
    parts = []
    for at in range(0, length, step):
        mine = q[:, :, :, at : at + step]
        if window is not None:
            parts.append(_masked(mine, k, v, window[at : at + step]))
            continue
        seen = keys - length + at if causal else keys
        parts.append(_block(mine, k, v, seen))
    out = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=3)
    return out.reshape(rows, heads, length, v.shape[-1])


def _block_size(scores: int) -> int:
    """MLX holds up to ten operations' results while it works ahead: of an eighth each, that is about what its
    own attention holds."""
    return min(BLOCKS[1], max(BLOCKS[0], scores // 8))


def _block(q: Any, k: Any, v: Any, seen: int) -> Any:
    """q: (rows, groups, heads of each, L, size), which see the first `seen` keys, and of those behind them
    each its own and the ones before it."""
    rows, groups, each, length, size = q.shape
    q = q.reshape(rows, groups, each * length, size)
    parts: list[tuple[Any, Any, Any]] = []  # scores, values, which of them do not count
    if seen:
        parts.append((q @ k[:, :, :seen].swapaxes(-1, -2), v[:, :, :seen], None))
    if seen < k.shape[2]:
        near = slice(seen, seen + length)
        hidden = mx.tile(mx.arange(length)[:, None] < mx.arange(length)[None], (each, 1))
        own = mx.where(hidden, -mx.inf, q @ k[:, :, near].swapaxes(-1, -2))
        parts.append((own, v[:, :, near], hidden))
    best = [scores.max(axis=-1, keepdims=True) for scores, _, _ in parts]
    most = best[0] if len(best) == 1 else mx.maximum(*best)
    outs, sums = [], []
    for scores, values, hidden in parts:
        weights = exp(scores - most)
        if hidden is not None:
            weights = mx.where(hidden, 0.0, weights)
        outs.append(weights @ values)
        sums.append(_sums(weights))
    out = sum(outs[1:], outs[0]) / sum(sums[1:], sums[0])
    return out.reshape(rows, groups, each, length, -1)


def _window(mask: Any, rows: int, length: int, keys: int) -> Any:
    """What each query may see, (L, K), as a sliding window says it. None: a mask of another kind."""
    if not isinstance(mask, mx.array) or rows > 1 or mask.dtype != mx.bool_ or mask.size != length * keys:
        return None
    return mask.reshape(length, keys)


def _masked(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """As `_block`. mask: (L, K), true where a query sees a key; each sees one at least."""
    rows, groups, each, length, size = q.shape
    scores = (q.reshape(rows, groups, each * length, size) @ k.swapaxes(-1, -2)).reshape(*q.shape[:-1], -1)
    scores = mx.where(mask, scores, -mx.inf)
    weights = mx.where(mask, exp(scores - scores.max(axis=-1, keepdims=True)), 0.0)
    weights = weights.reshape(rows, groups, each * length, -1)
    return ((weights @ v) / _sums(weights)).reshape(*q.shape)


def _sums(weights: Any) -> Any:
    """(..., 1), by a product: BLAS takes a fifth of the time of MLX's sum."""
    return weights @ mx.ones((weights.shape[-1], 1))


def gelu_approx(x: Any) -> Any:
    """As mlx.nn's, which has tanh in it: (1 + tanh(y)) / 2 is sigmoid(2 * y)."""
    if x.size < LEAST_GATES or x.dtype != mx.float32:
        return _mlx_gelu_approx(x)
    y = _inner(x)
    return x * _sigmoid(y, exp(-mx.abs(y)))


def rope(x: Any, dims: int, *, traditional: bool = False, base: float | None = None, **more: Any) -> Any:
    """As mx.fast.rope, which computes the angles of a chunk anew for the queries and keys of every layer."""
    offset, length = more.get("offset"), x.shape[-2]
    plain = not traditional and base is not None and more.get("freqs") is None and isinstance(offset, int)
    if not plain or x.dtype != mx.float32 or length < LEAST_QUERIES:
        return _mlx_rope(x, dims, traditional=traditional, base=base, **more)
    cos, sin = _angles(dims, base, more.get("scale", 1.0), offset, length)
    one, two = x[..., : dims // 2], x[..., dims // 2 : dims]
    parts = [one * cos - two * sin, one * sin + two * cos]
    return mx.concatenate([*parts, x[..., dims:]] if dims < x.shape[-1] else parts, axis=-1)


@functools.lru_cache(maxsize=4)
def _angles(dims: int, base: float, scale: float, offset: int, length: int) -> tuple[Any, Any]:
    """Cosines and sines, (L, dims / 2)."""
    half = dims // 2
    positions = mx.arange(offset, offset + length).astype(mx.float32) * scale
    angles = positions[:, None] * mx.exp(mx.arange(half) * (-math.log(base) / half))
    return mx.cos(angles), mx.sin(angles)


def swiglu(gate: Any, x: Any) -> Any:
    """As mlx-lm's: gate * sigmoid(gate) * x."""
    if gate.size < LEAST_GATES or gate.dtype != mx.float32:
        return _mlx_swiglu(gate, x)
    return gate * _sigmoid(gate, exp(-mx.abs(gate))) * x


_mlx_attention: Function = mx.fast.scaled_dot_product_attention
_mlx_rope: Function = mx.fast.rope
_mlx_swiglu: Function = mlx_lm.models.activations.swiglu
_mlx_gelu_approx: Function = mlx.nn.gelu_approx


def install() -> None:
    """Before a model's code is imported: it takes these functions by their names. Compiles them too."""
    if mx.default_device() != mx.cpu:
        return
    if not COMPILES:
        log.warning("no C++ compiler is installed: long prompts take longer than they need to")
    chunk = mx.zeros((1, 1, LEAST_QUERIES, 8))
    gate = mx.zeros((LEAST_GATES,))
    causal = attention(chunk, chunk, chunk, scale=1.0, mask="causal")
    mx.eval(causal, swiglu(gate, gate), gelu_approx(gate))
    mx.fast.scaled_dot_product_attention = attention
    mx.fast.rope = rope
    mlx_lm.models.activations.swiglu = swiglu
    nn.gelu_approx = gelu_approx
