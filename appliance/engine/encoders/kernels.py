"""The few operations that encoders spend their time in, for each backend.

On Metal these are MLX's own fused kernels. MLX's CPU kernels compute `erf` and `exp` one element at a time:
the GELU of a MiniLM block took three times as long as the matrix product before it, a softmax thirteen times
as long as its scores. Polynomials of multiplications and additions alone are vectorised by the compiler:
GELU 9 times, softmax 4 times faster, within 1e-6 of the exact functions (tests/engine/encoders hold them to
that). `mx.compile` needs a C++ compiler on the CPU backend; without one the same sums run uncompiled.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

SCORES = 16 * 2**20  # elements of attention scores computed at a time on the CPU: 64 MiB
LOWEST = -40.0  # e**-40 is nothing beside 1 in float32: scores further below their row's best count as this

Activation = Callable[[mx.array], mx.array]

# Rational approximation of erf on [-4, 4], as in Eigen's `generic_fast_erf_float` (coefficients by
# minimax fit; beyond 4 the float32 result is 1): numerator and denominator in powers of x**2.
_NUMERATOR = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_DENOMINATOR = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
_HALVINGS = 6  # of exp's argument, and squarings of its result
_TAYLOR = (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)


def on_cpu() -> bool:
    return bool(mx.default_device() == mx.cpu)


def _horner(x: mx.array, coefficients: tuple[float, ...]) -> mx.array:
    value = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value


def rational_gelu(x: mx.array) -> mx.array:
    """x * Phi(x)."""
    z = mx.clip(x * math.sqrt(0.5), -4.0, 4.0)
    square = z * z
    return (0.5 * x) * (1.0 + z * _horner(square, _NUMERATOR) / _horner(square, _DENOMINATOR))


def power_exp(x: mx.array) -> mx.array:
    """e**x for x <= 0: a Taylor polynomial of x / 64, squared six times."""
    value = _horner(mx.maximum(x, LOWEST) * 0.5**_HALVINGS, _TAYLOR)
    for _ in range(_HALVINGS):
        value = value * value
    return value


def _sigmoid(x: mx.array) -> mx.array:
    """Of e**-|x| alone, so that nothing overflows."""
    small = power_exp(-mx.abs(x))
    return mx.where(x >= 0, 1.0, small) / (1.0 + small)


def _silu(x: mx.array) -> mx.array:
    return x * _sigmoid(x)


def _tanh_gelu(x: mx.array) -> mx.array:
    """0.5 x (1 + tanh(z)) = x sigmoid(2 z)."""
    return x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))


def _fused(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return function
    compiled: Callable[..., mx.array] = mx.compile(function, shapeless=True)
    return compiled


class Kernels:
    """exact functions' names as config.json writes them -> how they are computed here."""

    def __init__(self, cpu: bool) -> None:
        self.cpu = cpu
        gelu: Activation = _fused(rational_gelu) if cpu else nn.gelu
        silu: Activation = _fused(_silu) if cpu else nn.silu
        tanh_gelu: Activation = _fused(_tanh_gelu) if cpu else nn.gelu_approx
        self.activations: dict[str, Activation] = {
            "gelu": gelu,
            "gelu_python": gelu,
            "gelu_new": tanh_gelu,
            "gelu_fast": tanh_gelu,
            "gelu_pytorch_tanh": tanh_gelu,
            "relu": nn.relu,
            "silu": silu,
            "swish": silu,
            "swiglu": silu,
        }
        self._exp = _fused(power_exp)

    def attention(self, q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
        """All of rows x heads x tokens x size; mask: 0 or -inf, to be added to the scores."""
        scale = q.shape[-1] ** -0.5
        if not self.cpu:
            return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
        rows, heads, tokens, _ = q.shape
        q, k = q * scale, k.swapaxes(-1, -2)
        step = max(1, SCORES // (rows * heads * tokens))
        if tokens <= step:
            return self._mix(q, k, v, mask)
        parts = []
        for at in range(0, tokens, step):
            part = self._mix(q[:, :, at : at + step], k, v, mask)
            mx.eval(part)  # one part's scores at a time
            parts.append(part)
        return mx.concatenate(parts, axis=2)

    def _mix(self, q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
        scores = q @ k
        if mask is not None:
            scores = scores + mask
        weights = self._exp(scores - scores.max(axis=-1, keepdims=True))
        return (weights @ v) / weights.sum(axis=-1, keepdims=True)


_made: dict[bool, Kernels] = {}


def kernels() -> Kernels:
    cpu = on_cpu()
    if cpu not in _made:
        _made[cpu] = Kernels(cpu)
    return _made[cpu]


class Norm(nn.Module):  # type: ignore[misc,unused-ignore]
    """Layer normalisation. On the CPU its sums are matrix products, which BLAS does faster than MLX."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.ones((width,))
        self.bias = mx.zeros((width,))
        self._eps = eps
        self._mean = mx.full((width, 1), 1 / width) if on_cpu() else None

    def __call__(self, x: mx.array) -> mx.array:
        if self._mean is None:
            return mx.fast.layer_norm(x, self.weight, self.bias, self._eps)
        centred = x - x @ self._mean
        spread = (centred * centred) @ self._mean
        return centred * mx.rsqrt(spread + self._eps) * self.weight + self.bias


def padding_mask(lengths: list[int], dtype: Any) -> mx.array | None:
    """rows x 1 x 1 x tokens, -inf behind each row's end; None where all rows are equally long."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    inside = mx.arange(longest)[None, :] < mx.array(lengths)[:, None]
    return mx.where(inside, 0.0, -mx.inf).astype(dtype)[:, None, None, :]
