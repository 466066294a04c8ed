"""Quantised keys and values, for one row and for a batch.

mlx-lm has the first (`QuantizedKVCache`) and attention that reads it: `scaled_dot_product_attention`
goes by the cache's `bits` and `group_size`. It has no batched form, so such models could run one row at a
time. `BatchQuantizedCache` is mlx-lm's `BatchKVCache` over triples of arrays: the same left padding, the
same offsets and masks, hence the same tokens as each row gets alone.

What is held of keys and of values, for `bits` bits and groups of `group_size` elements:
    packed  (rows, heads, tokens, head size * bits / 32)     uint32
    scales  (rows, heads, tokens, head size / group_size)    the model's own type
    biases  (rows, heads, tokens, head size / group_size)    the model's own type
A token is quantised once, by itself, when it comes in; joining, leaving and cutting only move the triples.

A step reads the triples. A chunk of a prompt gets them dequantised, one layer at a time: attention of many
queries over triples took 7 times as long on the CPU backend (256 queries over 2,048 tokens; level at 3
queries), and its matrix of scores would be written to memory where Metal's kernel never does that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core
from mlx_lm.models.cache import BatchKVCache, QuantizedKVCache, dynamic_roll

mx: Any = mlx.core
Triple = tuple[Any, Any, Any]  # packed, scales, biases

GROUPS = (64, 32)  # tried in this order; 128 would save another 3 % at 4 bits, and costs precision


WHOLE = 8  # tokens taken in at once from which all that is held is given out dequantised


class CannotQuantize(ValueError):
    """MLX has no groups that fit this model's heads."""


def group_size(keys: int, values: int) -> int:
    """Elements per scale and bias, for heads of these sizes. Raises CannotQuantize."""
    for size in GROUPS:
        if keys % size == 0 and values % size == 0:
            return size
    sizes = f"{keys}" if keys == values else f"{keys} and {values}"
    raise CannotQuantize(f"heads of {sizes} elements cannot be divided into groups of {GROUPS[-1]}")


class _Quantized:
    """What the plain and the batched form share."""

    keys: Any  # Triple | None
    values: Any
    group_size: int
    _bits: int
    _whole: bool = False  # what was given out last is dequantised

    @property
    def bits(self) -> int:
        """Not there after a chunk: mlx-lm's attention takes a cache that has `bits` to give out triples."""
        if self._whole:
            raise AttributeError("what was given out last is not quantised")
        return self._bits

    @bits.setter
    def bits(self, bits: int) -> None:
        self._bits = bits

    def _given(self, held: tuple[Triple, Triple], tokens: int) -> tuple[Any, Any]:
        """All that is held, for the attention of so many new tokens."""
        self._whole = tokens >= WHOLE
        if not self._whole:
            return held
        keys, values = (
            mx.dequantize(*triple, group_size=self.group_size, bits=self._bits) for triple in held
        )
        return keys, values

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*(self.keys or ()), *(self.values or ())))


class QuantizedCache(_Quantized, QuantizedKVCache):  # type: ignore[misc]  # mlx-lm has no types
    """One row. group_size: chosen by the size of the heads, known when the first tokens come in."""

    def __init__(self, bits: int) -> None:
        super().__init__(group_size=GROUPS[0], bits=bits)

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Take in (1, heads, tokens, head size); all that is held, as triples or dequantised."""
        self._whole = False
        if self.keys is None:
            self.group_size = group_size(keys.shape[-1], values.shape[-1])
        return self._given(super().update_and_fetch(keys, values), keys.shape[2])

    def size(self) -> int:
        return int(self.offset)

    @property
    def state(self) -> Any:
        return self.keys, self.values, self.offset, self.group_size, self._bits

    @state.setter
    def state(self, state: Any) -> None:
        self.keys, self.values, self.offset, self.group_size, self._bits = state

    @classmethod
    def merge(cls, caches: Sequence[QuantizedCache]) -> BatchQuantizedCache:
        return BatchQuantizedCache.merge(caches)


class BatchQuantizedCache(_Quantized, BatchKVCache):  # type: ignore[misc]  # mlx-lm has no types
    """Several rows, padded on the left. Padding, offsets, masks and trimming are BatchKVCache's."""

    offset: Any  # (rows,) tokens of each row's own text
    left_padding: Any  # (rows,)
    _idx: int
    _right_padding: Any

    def __init__(self, left_padding: Sequence[int], bits: int) -> None:
        super().__init__(list(left_padding))
        self.bits = bits
        self.group_size = GROUPS[0]

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Take in (rows, heads, tokens, head size); all that is held, as triples or dequantised."""
        start, end = self._idx, self._idx + keys.shape[2]
        if self.keys is None:
            self.group_size = group_size(keys.shape[-1], values.shape[-1])
        new_keys, new_values = (
            mx.quantize(new, group_size=self.group_size, bits=self._bits) for new in (keys, values)
        )
        if self.keys is None or end > self.keys[0].shape[2]:
            self.keys = self._grown(self.keys, new_keys)
            self.values = self._grown(self.values, new_values)
        for held, new in ((self.keys, new_keys), (self.values, new_values)):
            for array, part in zip(held, new, strict=True):
                array[..., start:end, :] = part
        self.offset = self.offset + keys.shape[2]
        self._idx = end
        return self._given(self.keys_and_values(), keys.shape[2])

    def _grown(self, held: Triple | None, new: Triple) -> Triple:
        """`held` with room for `new`, in whole steps."""
        steps = -(-new[0].shape[2] // self.step) * self.step
        room = [mx.zeros((*part.shape[:2], steps, part.shape[3]), part.dtype) for part in new]
        if held is None:
            return room[0], room[1], room[2]
        return each(lambda old, more: mx.concatenate([old[..., : self._idx, :], more], axis=2), held, room)

    def keys_and_values(self) -> tuple[Triple, Triple]:
        keys, values = (each(lambda x: x[..., : self._idx, :], held) for held in (self.keys, self.values))
        return keys, values

    def finalize(self) -> None:
        if self._right_padding is None:
            return
        padding = self._right_padding
        self.keys, self.values = (
            each(lambda x: dynamic_roll(x, padding[:, None], axis=2), held)
            for held in (self.keys, self.values)
        )
        self.offset = self.offset - padding
        self.left_padding = self.left_padding + padding
        self._right_padding = None

    @property
    def state(self) -> Any:
        return *super().state, self._bits, self.group_size

    @state.setter
    def state(self, state: Any) -> None:
        *rest, self._bits, self.group_size = state
        BatchKVCache.state.fset(self, rest)
        self._right_padding = None

    def filter(self, batch_indices: list[int]) -> None:
        """Only these rows, in place, without the padding that nobody needs any more."""
        offset, left_padding = self.offset[batch_indices], self.left_padding[batch_indices]
        spare = min(left_padding.tolist())
        if self.keys is not None:
            self.keys, self.values = (
                each(lambda x: x[batch_indices][..., spare:, :], held) for held in (self.keys, self.values)
            )
        self.offset, self.left_padding = offset, left_padding - spare
        self._idx -= spare

    def extend(self, other: BatchQuantizedCache) -> None:
        """Take in the rows of another batch of the same model, in place."""
        like = self if self.keys is not None else other
        index = max(self._idx, other._idx)
        if like.keys is not None:
            room = max(batch.keys[0].shape[2] for batch in (self, other) if batch.keys is not None)
            for name in ("keys", "values"):
                shapes = getattr(like, name)
                parts = [batch._aligned(name, shapes, index, room) for batch in (self, other)]
                setattr(self, name, each(lambda a, b: mx.concatenate([a, b]), *parts))
            self.group_size = like.group_size
        self.left_padding = mx.concatenate(
            [batch.left_padding + (index - batch._idx) for batch in (self, other)]
        )
        self.offset = mx.concatenate([self.offset, other.offset])
        self._idx = index

    def _aligned(self, name: str, like: Triple, index: int, room: int) -> Triple:
        """Keys or values moved right, so that they end at `index`, with room for `room` tokens."""
        held: Triple | None = getattr(self, name)
        rows, left = self.offset.shape[0], index - self._idx
        if held is None:
            return each(lambda x: mx.zeros((rows, x.shape[1], room, x.shape[3]), x.dtype), like)
        right = room - held[0].shape[2] - left
        cut = each(lambda x: x[..., :right, :], held) if right < 0 else held
        return each(lambda x: mx.pad(x, [(0, 0), (0, 0), (left, max(right, 0)), (0, 0)]), cut)

    def extract(self, idx: int) -> QuantizedCache:
        """One row as a plain cache, copied out."""
        cache = QuantizedCache(self._bits)
        cache.group_size = self.group_size
        if self.keys is not None:
            start = self.left_padding.tolist()[idx]
            cache.keys, cache.values = (
                each(lambda x: mx.contiguous(x[idx : idx + 1, :, start : self._idx]), held)
                for held in (self.keys, self.values)
            )
            cache.offset = self._idx - start
        return cache

    @classmethod
    def merge(cls, caches: Sequence[QuantizedCache]) -> BatchQuantizedCache:
        """Plain caches of several rows as one batch; some or all may be empty."""
        longest = max(cache.size() for cache in caches)
        batch = cls([longest - cache.size() for cache in caches], caches[0]._bits)
        like = next((cache for cache in caches if cache.keys is not None), None)
        if not longest or like is None:
            return batch
        batch.group_size = like.group_size
        batch.keys, batch.values = (
            each(lambda x: mx.zeros((len(caches), x.shape[1], longest, x.shape[3]), x.dtype), held)
            for held in (like.keys, like.values)
        )
        for row, cache in enumerate(caches):
            if cache.keys is not None:
                for into, held in ((batch.keys, cache.keys), (batch.values, cache.values)):
                    for array, part in zip(into, held, strict=True):
                        array[row : row + 1, :, longest - cache.size() :] = part[..., : cache.size(), :]
        batch.offset = batch.offset + longest
        batch._idx = longest
        return batch


def each(change: Callable[..., Any], *triples: Sequence[Any]) -> Triple:
    """The same done to packed, scales and biases."""
    packed, scales, biases = (change(*arrays) for arrays in zip(*triples, strict=True))
    return packed, scales, biases
