"""The CPU's own versions of a few functions, against the exact ones."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from appliance.engine.encoders import kernels, loop
from appliance.engine.encoders.heads import last
from appliance.engine.encoders.pooling import pool
from reconciler import encoder_shape

CPU = kernels.Kernels(cpu=True)
FUSED = kernels.Kernels(cpu=False)
POINTS = mx.concatenate([mx.linspace(-30, 30, 60_001), mx.array([-1e6, -100.0, 0.0, 100.0, 1e6])])


@pytest.mark.parametrize("name", sorted(CPU.activations))
def test_activations_are_exact_to_a_millionth_of_their_argument(name: str) -> None:
    exact, found = FUSED.activations[name](POINTS), CPU.activations[name](POINTS)
    error = mx.abs(found - exact) / mx.maximum(mx.abs(POINTS), 1.0)
    assert error.max().item() < 1e-6


def test_gelu_is_the_one_with_erf() -> None:
    found = np.array(CPU.activations["gelu"](mx.array([-2.0, -0.5, 0.7, 3.0])))
    wanted = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in (-2.0, -0.5, 0.7, 3.0)]
    assert np.abs(found - wanted).max() < 1e-6


def test_exponentials_are_exact_where_they_count() -> None:
    x = mx.linspace(-87, 0, 100_001)
    assert mx.abs(kernels.power_exp(x) - mx.exp(x)).max().item() < 5e-6
    assert kernels.power_exp(mx.array([-mx.inf])).item() < 1e-17


@pytest.mark.parametrize("name", sorted(CPU.activations))
def test_nan_stays_nan(name: str) -> None:
    assert math.isnan(CPU.activations[name](mx.array([math.nan])).item())


def test_attention_is_the_fused_one_with_and_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (mx.random.normal((3, 4, 37, 16), key=mx.random.key(n)) for n in range(3))
    mask = kernels.padding_mask([37, 20, 1], mx.float32)
    for one in (None, mask):
        exact = FUSED.attention(q, k, v, one)
        assert mx.abs(CPU.attention(q, k, v, one) - exact).max().item() < 1e-5
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "SCORES", 3 * 4 * 37 * 10)  # ten queries at a time
            assert mx.abs(CPU.attention(q, k, v, one) - exact).max().item() < 1e-5


def test_rows_of_one_length_need_no_mask() -> None:
    assert kernels.padding_mask([5, 5], mx.float32) is None


def test_layer_normalisation_is_the_fused_one() -> None:
    x = 5 * mx.random.normal((3, 11, 64), key=mx.random.key(1)) + 2
    norm = kernels.Norm(64, 1e-12)
    norm.weight, norm.bias = mx.random.normal((64,)), mx.random.normal((64,))
    exact = mx.fast.layer_norm(x, norm.weight, norm.bias, 1e-12)
    assert mx.abs(norm(x) - exact).max().item() < 1e-5
    assert set(norm.parameters()) == {"weight", "bias"}


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_padding_is_never_pooled(mode: str) -> None:
    hidden = mx.random.normal((2, 6, 8), key=mx.random.key(3))
    together = pool(mode, hidden, [6, 3])
    alone = pool(mode, hidden[1:, :3], [3])
    assert mx.abs(together[1] - alone[0]).max().item() < 1e-6


def test_the_last_token_is_found_by_the_length() -> None:
    hidden = mx.arange(24).reshape(2, 3, 4)
    assert np.array(last(hidden, [3, 1])).tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]


def test_the_forecast_knows_the_engines_sizes() -> None:
    assert {"cpu": loop.MOST_CPU, "metal": loop.MOST_GPU} == encoder_shape.SLICE
    assert kernels.SCORES == encoder_shape.SCORES
