"""What is cut and joined again is what was there: every cache class, alone, in a batch, and from disk."""

from __future__ import annotations

from typing import Any

import mlx.core
import numpy as np
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    RotatingKVCache,
)

from appliance.engine import blocks
from appliance.engine.blocks import Piece, Unfit
from appliance.engine.layers import flat, merged
from appliance.engine.quantized import QuantizedCache
from appliance.prompt_cache.keys import BLOCK

mx: Any = mlx.core
HEADS, WIDTH, WINDOW = 2, 64, 100
KINDS: dict[str, Any] = {
    "plain": lambda: [KVCache(), KVCache()],
    "quantised": lambda: [QuantizedCache(8), QuantizedCache(4)],
    "rotating": lambda: [RotatingKVCache(WINDOW), KVCache()],
    "only rotating": lambda: [RotatingKVCache(WINDOW, keep=4)],
    "arrays": lambda: [ArraysCache(2), KVCache()],
    "chunked": lambda: [ChunkedKVCache(BLOCK), KVCache()],
    "nested": lambda: [CacheList(ArraysCache(2), KVCache()), CacheList(KVCache(), RotatingKVCache(WINDOW))],
}
BATCHED = [name for name in KINDS if name != "chunked"]
DENSE = ["plain", "quantised"]


def feed(caches: list[Any], row: int, tokens: range, dtype: Any = mx.float32) -> None:
    """As a model does: each cache gets something that tells row, layer and position apart."""
    if not len(tokens):
        return
    for layer, cache in enumerate(flat(caches)):
        at = mx.array(list(tokens), mx.float32)[None, None, :, None] / 1000
        ways = mx.arange(HEADS)[None, :, None, None] + mx.arange(WIDTH)[None, None, None, :] / 100
        keys = (at + ways + layer + 10 * row).astype(dtype)
        if isinstance(cache, ArraysCache):
            cache[0] = keys[:, :, -1, :]
            cache[1] = (keys[:, 0, -1, :3] + (0 if cache[1] is None else cache[1])).astype(dtype)
        else:
            if isinstance(cache, ChunkedKVCache):
                cache.maybe_trim_front()
            cache.update_and_fetch(keys, -keys)


def filled(kind: str, row: int, tokens: int, dtype: Any = mx.float32) -> list[Any]:
    caches: list[Any] = KINDS[kind]()
    feed(caches, row, range(tokens - tokens // 3), dtype)
    for at in range(tokens - tokens // 3, tokens, 7):  # in pieces, and at last one by one
        feed(caches, row, range(at, min(tokens, at + 7)), dtype)
    return caches


def holds(caches: list[Any]) -> list[Any]:
    """Everything that decides what comes next, as numpy."""
    found: list[Any] = []
    for cache in flat(caches):
        if isinstance(cache, QuantizedCache):
            found.append((cache.offset, cache._bits, cache.group_size))
        if isinstance(cache, blocks.PER_TOKEN):
            found.append(cache.offset)
            for value in (cache.keys, cache.values):
                parts = value if isinstance(value, tuple) else (value,)
                found.extend(array(part[:, :, : cache.offset]) for part in parts)
        elif isinstance(cache, RotatingKVCache):
            found.append((cache.offset, cache.keep, cache.max_size, cache._idx))
            found.extend([array(cache.keys), array(cache.values)])
        else:
            found.extend(array(part) if isinstance(part, mx.array) else part for part in nested(cache.state))
    return found


def nested(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in nested(item)] if isinstance(value, (list, tuple)) else [value]


def array(value: Any) -> Any:
    return np.array(value.astype(mx.float32))


def same(one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs)
        else:
            assert mine == theirs


def pieces_of(caches: list[Any], row: int | None, total: int) -> tuple[list[Piece], Piece | None]:
    whole = total - total % BLOCK
    made = [blocks.cut(caches, row, total, at, at + BLOCK) for at in range(0, whole, BLOCK)]
    if blocks.stateful(caches):
        return made, blocks.cut_state(caches, row, total, whole)
    if whole < total:
        made.append(blocks.cut(caches, row, total, whole, total))
    return made, None


def through_files(piece: Piece) -> Piece:
    mx.eval(piece.arrays)
    payload, meta = blocks.to_host(piece)
    return blocks.from_host(payload, meta)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("total", [40, BLOCK, 2 * BLOCK + 130])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_comes_back_as_it_was(kind: str, total: int, dtype: Any) -> None:
    caches = filled(kind, 0, total, dtype)
    made, state = pieces_of(caches, None, total)
    for through in (lambda piece: piece, through_files):
        again = blocks.join(
            KINDS[kind](), [through(piece) for piece in made], state and through(state), total, total + 300
        )
        same(holds(again), holds(caches))
        for one, other in zip(flat(again), flat(caches), strict=True):
            assert type(one) is type(other)
    more = filled(kind, 0, total, dtype)  # and goes on as it would have
    feed(more, 0, range(total, total + 9), dtype)
    feed(again, 0, range(total, total + 9), dtype)
    same(holds(again), holds(more))


@pytest.mark.parametrize("kind", BATCHED)
def test_each_row_of_a_batch_comes_back_as_the_row_that_went_in(kind: str) -> None:
    lengths = [BLOCK + 20, 90, 2 * BLOCK + 7]
    batch = merged([filled(kind, row, length) for row, length in enumerate(lengths)])
    for row, length in enumerate(lengths):
        made, state = pieces_of(batch, row, length)
        again = blocks.join(KINDS[kind](), made, state, length, length)
        alone = [cache.extract(row) for cache in batch]
        same(holds(again), holds(alone))


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("tokens", [1, BLOCK - 1, BLOCK, BLOCK + 60])
def test_the_last_block_may_be_used_in_part(kind: str, tokens: int) -> None:
    made, _ = pieces_of(filled(kind, 0, 2 * BLOCK), None, 2 * BLOCK)
    again = blocks.join(KINDS[kind](), made[: -(-tokens // BLOCK)], None, tokens, tokens)
    short = KINDS[kind]()
    feed(short, 0, range(tokens))
    same(holds(again), holds(short))


@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_does_not_hold_the_cache_it_was_cut_from(kind: str) -> None:
    caches = filled(kind, 0, 40 * BLOCK)
    mx.eval([cache.state for cache in caches if not isinstance(cache, CacheList)])
    mx.eval([member.state for member in flat(caches)])
    made = [blocks.cut(caches, None, 40 * BLOCK, 0, BLOCK)]
    if blocks.stateful(caches):
        made.append(blocks.cut_state(caches, None, 40 * BLOCK, 40 * BLOCK))
    mx.eval([piece.arrays for piece in made])
    del caches
    mx.synchronize()
    before = mx.get_active_memory()
    nbytes = sum(piece.nbytes for piece in made)
    del made
    freed = before - mx.get_active_memory()
    assert nbytes <= freed <= nbytes + 16384 * len(KINDS)  # Metal hands out whole pages


def test_a_block_is_few_arrays_however_many_layers_there_are() -> None:
    caches = [KVCache() for _ in range(30)]
    feed(caches, 0, range(BLOCK))
    assert len(blocks.cut(caches, None, BLOCK, 0, BLOCK).arrays) == 1


def test_a_prefill_after_a_restore_writes_in_place() -> None:
    made, _ = pieces_of(filled("plain", 0, BLOCK), None, BLOCK)
    again = blocks.join(KINDS["plain"](), made, None, BLOCK, 3 * BLOCK)
    assert [cache.keys.shape[2] for cache in again] == [3 * BLOCK, 3 * BLOCK]
    feed(again, 0, range(BLOCK, 3 * BLOCK))
    assert [cache.keys.shape[2] for cache in again] == [3 * BLOCK, 3 * BLOCK]


@pytest.mark.parametrize("keep", [0, 4])
@pytest.mark.parametrize("before", [0, 40, 130, 260])
def test_a_state_that_a_chunk_has_passed_is_the_one_that_was_there(keep: int, before: int) -> None:
    """Of rotating caches, from the chunk's end, to any token of the chunk."""

    def caches() -> list[Any]:
        return [RotatingKVCache(WINDOW, keep=keep), KVCache()]

    def fed(to: int) -> list[Any]:
        made = caches()
        for at in range(before):
            feed(made, 0, range(at, at + 1))
        feed(made, 0, range(before, to))
        return made

    assert blocks.rewinds(caches())
    total = before + 80
    passed = fed(total)
    for stop in (before + 2, before + 50, total - 1, total):
        whole = stop - stop % BLOCK
        made = [blocks.cut(passed, None, total, at, at + BLOCK) for at in range(0, whole, BLOCK)]
        state = blocks.cut_state(passed, None, total, whole, total - stop)
        again = blocks.join(caches(), made, state, stop, stop)
        same(holds(again), holds(fed(stop)))


def test_a_state_that_is_gone_is_not_made_up() -> None:
    caches = [RotatingKVCache(WINDOW)]
    feed(caches, 0, range(150))
    feed(caches, 0, range(150, 200))
    with pytest.raises(Unfit, match="cannot be set back by 60"):
        blocks.cut_state(caches, None, 200, 0, 60)
    feed(caches, 0, range(200, 201))  # a step turns it over
    with pytest.raises(Unfit, match="cannot be set back by 1"):
        blocks.cut_state(caches, None, 201, 0, 1)
    arrays = KINDS["arrays"]()
    assert not blocks.rewinds(arrays)
    feed(arrays, 0, range(20))
    with pytest.raises(Unfit, match="ArraysCache cannot be set back"):
        blocks.cut_state(arrays, None, 20, 0, 1)


def test_caches_that_hold_another_number_of_tokens_are_not_cut() -> None:
    with pytest.raises(Unfit, match="holds 40 tokens where 41 are due"):
        blocks.cut(filled("plain", 0, 40), None, 41, 0, 41)
    with pytest.raises(Unfit, match="RotatingKVCache holds 40 tokens"):
        blocks.cut_state(filled("only rotating", 0, 40), None, 41, 0)


@pytest.mark.parametrize("kind", ["plain", "quantised", "arrays"])
def test_pieces_of_another_model_are_refused(kind: str) -> None:
    made, state = pieces_of(filled(kind, 0, BLOCK + 5), None, BLOCK + 5)
    with pytest.raises((Unfit, IndexError)):
        blocks.join([KVCache()], made, state, BLOCK + 5, BLOCK + 5)


def test_a_file_whose_plan_is_not_its_arrays_is_refused() -> None:
    piece = pieces_of(filled("plain", 0, 40), None, 40)[0][0]
    mx.eval(piece.arrays)
    payload, meta = blocks.to_host(piece)
    for wrong in (
        {},
        {"plan": "nonsense"},
        {"plan": "[{}]"},
        {"plan": "7"},
        {"plan": '[{"type":"F16","lanes":[]}]'},
    ):
        with pytest.raises(Unfit):
            blocks.from_host(payload, wrong)
    with pytest.raises(Unfit):
        blocks.from_host({}, meta)
