"""Attention and gates on the CPU backend: MLX's own results, and MLX itself where nothing is to be gained."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import mlx.core
import mlx_lm.models.activations
import numpy as np
import pytest

from appliance.engine import cpu

mx: Any = mlx.core

pytestmark = pytest.mark.skipif(mx.default_device() != mx.cpu, reason="another backend has its own kernels")

# rows, heads, groups, queries, keys, size
SHAPES = [(1, 2, 1, 350, 1500, 128), (1, 4, 2, 16, 16, 64), (2, 4, 4, 100, 300, 32), (1, 16, 16, 33, 400, 64)]


def drawn(shape: tuple[int, ...], seed: int = 0) -> tuple[Any, Any, Any]:
    """Keys and values are part of larger arrays, as in a cache with room to grow."""
    rows, heads, groups, length, keys, size = shape
    mx.random.seed(seed)
    q = mx.random.normal((rows, heads, length, size))
    k, v = (mx.random.normal((rows, groups, keys + 40, size))[:, :, :keys] for _ in range(2))
    return q, k, v


def same(one: Any, other: Any) -> bool:
    return bool((one == other).all().item())


@pytest.mark.parametrize("mask", [None, "causal"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block", [2**12, 2**18])
def test_attention_is_mlx_own(
    shape: tuple[int, ...], mask: str | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the scores come in many blocks or in one."""
    monkeypatch.setattr(cpu, "BLOCKS", (block, block))
    q, k, v = drawn(shape)
    scale = shape[-1] ** -0.5
    exact = cpu._mlx_attention(q, k, v, scale=scale, mask=mask)
    found = cpu.attention(q, k, v, scale=scale, mask=mask)
    assert found.shape == exact.shape
    assert not same(found, exact)  # else MLX's own was asked, and this shows nothing
    assert mx.abs(found - exact).max().item() < 1e-5


def test_what_a_token_may_not_see_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "BLOCKS", (2**12, 2**12))
    q, k, v = drawn((1, 4, 2, 64, 200, 32))
    seen = cpu.attention(q, k, v, scale=0.2, mask="causal")
    for last in (0, 20, 62):
        first_hidden = 200 - 64 + last + 1
        others = [
            mx.concatenate([part[:, :, :first_hidden], part[:, :, first_hidden:] * 1e6], axis=2)
            for part in (k, v)
        ]
        found = cpu.attention(q, *others, scale=0.2, mask="causal")
        assert same(found[:, :, : last + 1], seen[:, :, : last + 1])
        assert not same(found[:, :, last + 1 :], seen[:, :, last + 1 :])


def test_scores_of_any_size_are_fine() -> None:
    q, k, v = drawn((1, 2, 2, 32, 100, 16))
    for size in (1e-20, 1.0, 1e4):
        exact = cpu._mlx_attention(q, k, v, scale=size, mask="causal")
        found = cpu.attention(q, k, v, scale=size, mask="causal")
        assert mx.abs(found - exact).max().item() < 2e-5


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[0] == 1])
@pytest.mark.parametrize("window", [1, 20, 5000])
def test_a_sliding_window_is_mlx_own(shape: tuple[int, ...], window: int) -> None:
    from mlx_lm.models.base import create_causal_mask

    q, k, v = drawn(shape)
    length, keys = shape[3], shape[4]
    mask = create_causal_mask(length, keys - length, window_size=window)
    for form in (mask, mask[None, None]):
        exact = cpu._mlx_attention(q, k, v, scale=shape[-1] ** -0.5, mask=form)
        found = cpu.attention(q, k, v, scale=shape[-1] ** -0.5, mask=form)
        assert found.shape == exact.shape
        assert window == 1 or not same(found, exact)
        assert mx.abs(found - exact).max().item() < 1e-5
    hidden = mx.where(mask.any(axis=0)[None, None, :, None], 1.0, 1e6)  # nobody sees these
    assert same(cpu.attention(q, k * hidden, v * hidden, scale=0.2, mask=mask),
                cpu.attention(q, k, v, scale=0.2, mask=mask))  # fmt: skip


@pytest.mark.parametrize("dims", [64, 128])
@pytest.mark.parametrize("offset", [0, 7, 100_000])
def test_turned_positions_are_mlx_own_to_the_bit(dims: int, offset: int) -> None:
    x = mx.random.normal((2, 3, 40, 128))
    for base, scale in ((10_000.0, 1.0), (1e6, 0.25)):
        how = {"traditional": False, "base": base, "scale": scale, "offset": offset}
        assert same(cpu.rope(x, dims, **how), cpu._mlx_rope(x, dims, **how))
        how["traditional"] = True
        assert same(cpu.rope(x, dims, **how), cpu._mlx_rope(x, dims, **how))
    places = mx.array([offset, offset + 3])  # of a batch
    how = {"traditional": False, "base": 1e4, "scale": 1.0, "offset": places}
    assert same(cpu.rope(x, dims, **how), cpu._mlx_rope(x, dims, **how))


def test_gelu_is_mlx_own() -> None:
    x = mx.concatenate([mx.random.normal((90, 1024)) * 8, mx.array([[-200.0, 200.0, 0.0, -0.0] * 256])])
    exact, found = cpu._mlx_gelu_approx(x), cpu.gelu_approx(x)
    assert not same(found, exact)
    assert mx.abs(found - exact).max().item() < 1e-4
    assert same(cpu.gelu_approx(x[:3]), cpu._mlx_gelu_approx(x[:3]))


def test_the_rest_goes_to_mlx_itself() -> None:
    q, k, v = drawn((2, 4, 2, 40, 100, 32))
    array = mx.random.uniform(shape=(2, 1, 40, 100)) > 0.5
    cases: list[tuple[tuple[Any, Any, Any], dict[str, Any]]] = [
        ((q[:, :, :1], k, v), {"mask": None}),
        ((q, k, v), {"mask": array}),  # of a batch
        ((q[:1], k[:1], v[:1]), {"mask": mx.where(array[:1], 0.0, -1.0)}),  # what is added to the scores
        ((q, k, v), {"mask": "causal", "sinks": mx.zeros((4,))}),
        (tuple(part.astype(mx.float16) for part in (q, k, v)), {"mask": "causal"}),  # type: ignore[list-item]
    ]
    for arrays, more in cases:
        exact = cpu._mlx_attention(*arrays, scale=0.2, **more)
        assert same(cpu.attention(*arrays, scale=0.2, **more), exact), more


def test_exp_is_close_everywhere() -> None:
    draw = random.Random(5)
    points = [0.0, -1e-30, -39.9, -40.1, -1e30, -float("inf"), *(-draw.expovariate(0.1) for _ in range(5000))]
    x = np.array(points, dtype=np.float32)
    found = np.array(cpu.exp(mx.array(x)), dtype=np.float64)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(found - exact).max() < 4e-6
    near = x > -10
    assert (np.abs(found - exact)[near] / exact[near]).max() < 1e-5
    assert found[0] == 1.0


def test_gates_are_mlx_lms_own() -> None:
    gate = mx.concatenate(
        [mx.random.normal((1, 90, 1024)) * 8, mx.array([[[-200.0, 200.0, 0.0, -0.0] * 256]])], axis=1
    )
    x = mx.random.normal(gate.shape)
    exact, found = cpu._mlx_swiglu(gate, x), cpu.swiglu(gate, x)
    assert not same(found, exact)
    assert mx.abs(found - exact).max().item() < 1e-4
    assert same(cpu.swiglu(gate[:, :3], x[:, :3]), cpu._mlx_swiglu(gate[:, :3], x[:, :3]))


@pytest.fixture
def installed() -> Iterator[None]:
    before = mx.fast.scaled_dot_product_attention, mx.fast.rope, mlx_lm.models.activations.swiglu
    gelu = cpu.nn.gelu_approx
    cpu.install()
    try:
        yield
    finally:
        mx.fast.scaled_dot_product_attention, mx.fast.rope, mlx_lm.models.activations.swiglu = before
        cpu.nn.gelu_approx = gelu


@pytest.mark.usefixtures("installed")
def test_a_models_attention_goes_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the road that mlx-lm's models take."""
    from mlx_lm.models.base import scaled_dot_product_attention

    asked: list[int] = []
    block = cpu._block

    def counted(*args: Any) -> Any:
        asked.append(1)
        return block(*args)

    monkeypatch.setattr(cpu, "_block", counted)
    q, k, v = drawn((1, 2, 1, 32, 64, 16))
    scaled_dot_product_attention(q, k, v, cache=None, scale=0.25, mask="causal")
    assert asked
