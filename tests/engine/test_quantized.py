"""A batch of quantised caches holds, row for row, what each row's own quantised cache would hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from appliance.engine import caches, layers
from appliance.engine.quantized import (
    WHOLE,
    BatchQuantizedCache,
    CannotQuantize,
    QuantizedCache,
    group_size,
)

mx: Any = mlx.core

HEADS, WIDTH = 2, 64
LENGTHS = st.integers(0, 300)  # on both sides of a cache's step of 256 tokens


def tokens(rows: int, count: int, seed: int) -> tuple[Any, Any]:
    """Keys and values, different for every seed."""
    mx.random.seed(seed)
    keys, values = (mx.random.normal((rows, HEADS, count, WIDTH)) for _ in range(2))
    return keys, values


def filled(count: int, bits: int, seed: int) -> QuantizedCache:
    cache = QuantizedCache(bits)
    if count:
        cache.update_and_fetch(*tokens(1, count, seed))
    return cache


def held(cache: QuantizedCache) -> list[Any]:
    """The arrays of a plain cache, without the room at their ends."""
    if not cache.size():
        return []
    return [array for _, array in tree_flatten(cache.keys_and_values())]


def equal(one: QuantizedCache, other: QuantizedCache) -> bool:
    pairs = zip(held(one), held(other), strict=True)
    return one.size() == other.size() and all(bool(mx.array_equal(a, b)) for a, b in pairs)


class Batch:
    """A batched cache beside one plain cache for each of its rows."""

    def __init__(self, lengths: Sequence[int], bits: int, seed: int) -> None:
        self.bits = bits
        self.alone = [filled(length, bits, seed + row) for row, length in enumerate(lengths)]
        again = [filled(length, bits, seed + row) for row, length in enumerate(lengths)]
        self.cache = QuantizedCache.merge(again)

    def step(self, count: int, seed: int) -> None:
        keys, values = tokens(len(self.alone), count, seed)
        self.cache.update_and_fetch(keys, values)
        for row, cache in enumerate(self.alone):
            cache.update_and_fetch(keys[row : row + 1], values[row : row + 1])

    def padded(self, counts: Sequence[int], seed: int) -> None:
        """A chunk of prompts of different lengths, padded on the right, as a prefill does it."""
        keys, values = tokens(len(counts), max(counts), seed)
        self.cache.prepare(lengths=list(counts), right_padding=[max(counts) - count for count in counts])
        self.cache.update_and_fetch(keys, values)
        self.cache.finalize()
        for row, (cache, count) in enumerate(zip(self.alone, counts, strict=True)):
            if count:
                cache.update_and_fetch(keys[row : row + 1, :, :count], values[row : row + 1, :, :count])

    def check(self) -> None:
        assert self.cache.offset.tolist() == [cache.size() for cache in self.alone]
        for row, cache in enumerate(self.alone):
            assert equal(self.cache.extract(row), cache)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_rows_that_join_leave_and_grow_stay_what_they_are_alone(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([4, 8]), "bits")
    batch = Batch(data.draw(st.lists(LENGTHS, min_size=1, max_size=3), "lengths"), bits, 1)
    for turn in range(data.draw(st.integers(1, 6), "turns")):
        seed = 1000 * (turn + 1)
        what = data.draw(st.sampled_from(["step", "prompts", "join", "leave", "trim"]))
        if what == "step":
            batch.step(data.draw(st.integers(1, 3)), seed)
        elif what == "prompts":
            counts = data.draw(st.lists(LENGTHS, min_size=len(batch.alone), max_size=len(batch.alone)))
            if max(counts):
                batch.padded(counts, seed)
        elif what == "join" and len(batch.alone) < 6:
            more = Batch(data.draw(st.lists(LENGTHS, min_size=1, max_size=2)), bits, seed)
            batch.cache.extend(more.cache)
            batch.alone.extend(more.alone)
        elif what == "leave" and len(batch.alone) > 1:
            rows = data.draw(st.sets(st.integers(0, len(batch.alone) - 1), min_size=1))
            batch.cache.filter(sorted(rows))
            batch.alone = [batch.alone[row] for row in sorted(rows)]
        elif what == "trim" and (least := min(cache.size() for cache in batch.alone)):
            count = data.draw(st.integers(1, least))
            batch.cache.trim(count)
            for cache in batch.alone:
                cache.trim(count)
        batch.check()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("queries", [1, 5, 40], ids=["a step", "a short chunk", "a chunk"])
@pytest.mark.parametrize("repeats", [1, 2], ids=["own keys", "shared keys"])
def test_attention_over_a_batch_gives_each_row_what_it_gets_alone(
    bits: int, queries: int, repeats: int
) -> None:
    lengths = [300, 7, 70, 1]
    batch = Batch(lengths, bits, 1)
    keys, values = tokens(len(lengths), queries, 50)
    asked = mx.random.normal((len(lengths), HEADS * repeats, queries, WIDTH))
    copy = mx.array(asked)  # mlx-lm scales the queries where they are
    mask = batch.cache.make_mask(queries, return_array=True)
    got = batch.cache.update_and_fetch(keys, values)
    together = scaled_dot_product_attention(copy, *got, cache=batch.cache, scale=0.125, mask=mask)
    for row, cache in enumerate(batch.alone):
        one = slice(row, row + 1)
        mask = cache.make_mask(queries, return_array=True, window_size=None)
        got = cache.update_and_fetch(keys[one], values[one])
        alone = scaled_dot_product_attention(asked[one], *got, cache=cache, scale=0.125, mask=mask)
        assert mx.allclose(together[one], alone, atol=1e-5)


@pytest.mark.parametrize("batched", [False, True])
def test_a_chunk_gets_what_is_held_dequantised_and_a_step_gets_triples(batched: bool) -> None:
    cache: Any = filled(300, 8, 1)
    if batched:
        cache = QuantizedCache.merge([cache, filled(20, 8, 2)])
    rows = 2 if batched else 1
    keys, _ = cache.update_and_fetch(*tokens(rows, WHOLE, 3))
    assert keys.shape == (rows, HEADS, 300 + WHOLE, WIDTH)
    assert not hasattr(cache, "bits"), "mlx-lm's attention would take it for triples"
    assert cache.state, "and what it holds can still be computed and copied"
    triple = cache.keys_and_values()[0]
    assert mx.array_equal(keys, mx.dequantize(*triple, group_size=64, bits=8))
    step, _ = cache.update_and_fetch(*tokens(rows, 1, 4))
    assert [part.dtype for part in step] == [mx.uint32, mx.float32, mx.float32]
    assert cache.bits == 8


@pytest.mark.parametrize("big", [0, 2**40], ids=["layer by layer", "at once"])
def test_layers_joins_keeps_and_parts_them(big: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "BIG", big)
    lengths = [30, 260, 5]
    rows = [[filled(length, 8, length)] for length in lengths]
    joined = layers.join(layers.join(rows[0], True, rows[1], True), False, rows[2], True)
    layers.keep(joined, [0, 2])
    assert isinstance(joined[0], BatchQuantizedCache)
    assert joined[0].keys[0].shape[2] == 30, "the padding of the row that left is given back"
    assert equal(joined[0].extract(0), filled(30, 8, 30))
    [alone] = layers.alone(joined, 1)
    assert isinstance(alone, QuantizedCache)
    assert equal(alone, filled(5, 8, 5))


def test_a_batch_goes_through_its_state() -> None:
    batch = Batch([3, 9], 4, 1)
    batch.cache = BatchQuantizedCache.from_state(batch.cache.state)
    batch.step(2, 9)
    batch.check()


def test_an_empty_batch_has_no_bytes_and_takes_prompts_of_different_lengths() -> None:
    batch = Batch([0, 0, 0], 8, 1)
    assert batch.cache.empty()
    assert batch.cache.nbytes == 0 == batch.alone[0].nbytes
    batch.padded([4, 1, 2], 2)
    batch.check()


@pytest.mark.parametrize(("bits", "per_element"), [(4, 0.5 + 8 / 64), (8, 1 + 8 / 64)])
def test_its_bytes_are_the_packed_ones_and_a_scale_and_bias_for_each_64(
    bits: int, per_element: float
) -> None:
    alone = filled(256, bits, 1)
    assert alone.nbytes == 2 * HEADS * WIDTH * 256 * per_element
    assert QuantizedCache.merge([alone, filled(100, bits, 2)]).nbytes == 2 * alone.nbytes


@pytest.mark.parametrize(
    ("heads", "size"), [((64, 64), 64), ((96, 96), 32), ((192, 128), 64), ((32, 64), 32)]
)
def test_groups_are_the_largest_that_divide_the_heads(heads: tuple[int, int], size: int) -> None:
    assert group_size(*heads) == size
    cache = QuantizedCache(8)
    cache.update_and_fetch(*(mx.zeros((1, 2, 3, width)) for width in heads))
    assert cache.group_size == size


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_what_comes_out_has_the_models_own_type(dtype: Any) -> None:
    batch = QuantizedCache.merge([QuantizedCache(8), QuantizedCache(8)])
    chunk = batch.update_and_fetch(*(part.astype(dtype) for part in tokens(2, WHOLE, 1)))
    assert [part.dtype for part in chunk] == [dtype, dtype]
    batch.extend(QuantizedCache.merge([QuantizedCache(8)]))  # a row of padding only
    mask = batch.make_mask(1)
    step = batch.update_and_fetch(*(part.astype(dtype) for part in tokens(3, 1, 2)))
    asked = mx.ones((3, HEADS, 1, WIDTH), dtype)
    out = scaled_dot_product_attention(asked, *step, cache=batch, scale=0.1, mask=mask)
    assert out.dtype == dtype
    assert not mx.any(mx.isnan(out))


def test_heads_that_no_group_fits_are_named() -> None:
    with pytest.raises(CannotQuantize, match="heads of 80 elements"):
        QuantizedCache(4).update_and_fetch(*(mx.zeros((1, 2, 3, 80)) for _ in range(2)))


def test_only_caches_that_keep_everything_are_quantised() -> None:
    class Net:
        def make_cache(self) -> list[Any]:
            return [KVCache(), RotatingKVCache(16), CacheList(ArraysCache(2), KVCache())]

    full, rotating, both = caches.make(Net(), 4)
    assert [type(full), type(rotating)] == [QuantizedCache, RotatingKVCache]
    assert [type(member) for member in both.caches] == [ArraysCache, QuantizedCache]
    assert type(caches.make(Net(), None)[0]) is KVCache
    assert not caches.any_quantized([rotating, both.caches[0]])
    assert caches.any_quantized([rotating, both])
