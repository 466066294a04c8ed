"""Batches that are copied layer by layer hold the same as those copied at once, and peak far lower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from appliance.engine import layers

mx: Any = mlx.core

HEADS, WIDTH, WINDOW, DEPTH = 2, 32, 64, 6
MIB = 2**20


def kv(cache: Any, tokens: int) -> Any:
    cache.update_and_fetch(*(mx.random.normal((1, HEADS, tokens, WIDTH)) for _ in range(2)))
    mx.eval(cache.state)
    return cache


def state() -> ArraysCache:
    cache = ArraysCache(2)
    cache[0], cache[1] = mx.random.normal((1, 3, 8)), mx.random.normal((1, 4, 8))
    return cache


def mixed(tokens: int) -> list[Any]:
    """One row's caches of every kind."""
    rotating = kv(RotatingKVCache(WINDOW), tokens)
    return [kv(KVCache(), tokens), rotating, state(), CacheList(kv(KVCache(), tokens), kv(KVCache(), tokens))]


def same(ours: list[Any], theirs: list[Any]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert type(one) is type(other)
        for (_, a), (_, b) in zip(tree_flatten(one.state), tree_flatten(other.state), strict=True):
            assert mx.array_equal(a, b) if isinstance(a, mx.array) else a == b


@pytest.fixture(params=[0, 2**40], ids=["layer by layer", "at once"])
def _size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "BIG", request.param)


@pytest.mark.usefixtures("_size")
@pytest.mark.parametrize("lengths", [(30, 20, 50), (90, 20, 10), (5, 200, 30)])
def test_join_keep_and_alone_do_what_mlx_lm_does(lengths: tuple[int, int, int]) -> None:
    def reference() -> list[Any]:
        mx.random.seed(1)
        rows = [mixed(tokens) for tokens in lengths]
        batch = [layer[0].merge(list(layer[:1])) for layer in zip(*rows, strict=True)]
        for row in rows[1:]:
            for cache, new in zip(batch, row, strict=True):
                cache.extend(new.merge([new]))
        return batch

    def ours() -> list[Any]:
        mx.random.seed(1)
        first, second, third = (mixed(tokens) for tokens in lengths)
        batch = layers.join(first, True, second, True)
        assert not first
        assert not second
        return layers.join(batch, False, third, True)

    same(ours(), reference())
    kept, expected = ours(), reference()
    layers.keep(kept, [0, 2])
    for cache in expected:
        cache.filter([0, 2])
    same(kept, expected)
    same(layers.alone(ours(), 1), [cache.extract(1) for cache in reference()])


def batch_of(*lengths: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(DEPTH):
        cache = KVCache.merge([kv(KVCache(), length) for length in lengths])
        mx.eval(cache.state)
        made.append(cache)
    return made


def peak_over_layers(caches: list[Any], run: Callable[[list[Any]], list[Any]]) -> tuple[float, float]:
    """The peak above the larger of before and after, and what more stays, in layers of the larger batch."""
    layer = sum(cache.nbytes for cache in caches) / DEPTH
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    result = run(caches)
    mx.eval([cache.state for cache in result])
    layer = max(layer, sum(cache.nbytes for cache in result) / DEPTH)
    after = mx.get_active_memory()
    return (mx.get_peak_memory() - max(before, after)) / layer, (after - before) / layer


def test_the_peak_is_about_one_layer() -> None:
    mx.set_cache_limit(0)
    joined = peak_over_layers(
        batch_of(9000, 4000, 500), lambda batch: layers.join(batch, False, batch_of(6000), False)
    )
    assert joined[0] < 1.5

    def dropped(batch: list[Any]) -> list[Any]:
        layers.keep(batch, [1, 2])
        return batch

    kept = peak_over_layers(batch_of(9000, 4000, 500), dropped)
    assert kept[0] < 1.5
    assert kept[1] < -0.6 * DEPTH, "the padding of the row that left is given back"
