"""What a batch will hold at its largest, in bytes, from what this model's own caches were seen to take.

Measured once, at warm-up, on the real cache objects: config.json may say one thing and the architecture
allocate another. Three kinds of layer are told apart, as mlx-lm allocates them: caches that grow with the
text, in steps of 256 tokens; rotating ones that stop at their window; and states of one size.

A batch is padded: rows x longest; several batches cost their sum. On top of that comes the larger of two
things that never coincide: one layer of one batch a second time, since a cache that grows, takes in rows or
loses some is copied layer by layer, and what a chunk of a prompt needs while it is computed, which the
control plane forecasts (`Configure.workspace`). So one request at the full ceiling costs what the forecast
let the engine in for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from appliance.wire import Configure

STEP = 256  # tokens by which mlx-lm's caches grow
BIG = 16 * 2**20  # bytes of a batch from which its layers are copied one at a time
SAMPLING = 24  # bytes per token of the vocabulary and row: logits, and what sorting and penalties add


@dataclass(frozen=True)
class Layer:
    """One cache of one row. window: tokens at which it stops to grow; None: never."""

    per_token: int = 0
    window: int | None = None
    fixed: int = 0


def hold(tokens: int, batched: bool) -> int:
    """Tokens there is room for when `tokens` are held, at most.

    A plain cache grows in whole steps. A batch grows by a step from wherever it was put together.
    """
    return tokens + STEP - 1 if batched else -(-tokens // STEP) * STEP


@dataclass(frozen=True)
class Batch:
    """Rows that are padded to the longest of them, which comes to `tokens`, prompt and output."""

    rows: int
    tokens: int


@dataclass(frozen=True)
class Price:
    """base: bytes held while nothing runs. layers: of one row; none: not measured, and everything is free."""

    layers: tuple[Layer, ...] = ()
    base: int = 0
    vocabulary: int = 0

    def row_bytes(self, layer: Layer, tokens: int) -> int:
        held = tokens if layer.window is None else min(tokens, layer.window)
        return layer.fixed + held * layer.per_token

    def cache(self, rows: int, tokens: int) -> int:
        """Bytes of the caches of a batch in which the longest row comes to `tokens`, prompt and output."""
        held = hold(tokens, rows > 1)
        return rows * sum(self.row_bytes(layer, held) for layer in self.layers)

    def copied(self, rows: int, tokens: int) -> int:
        """Bytes that exist twice while a cache grows, or rows join or leave a batch."""
        whole = self.cache(rows, tokens)
        if rows > 1 and whole <= BIG:
            return whole
        held = hold(tokens, rows > 1)
        return rows * max(self.row_bytes(layer, held) for layer in self.layers)

    def need(self, batches: Sequence[Batch], limits: Configure) -> int:
        """Bytes in all, at the worst moment of these batches' lives."""
        if not self.layers or not batches:
            return self.base
        # In prefill a rotating cache holds a chunk more than its window.
        chunk = max(1, limits.prefill_chunk)
        beyond = chunk * sum(layer.per_token for layer in self.layers if layer.window is not None)
        held = sum(self.cache(batch.rows, batch.tokens) for batch in batches)
        rows = sum(batch.rows for batch in batches)
        copied = max(self.copied(batch.rows, batch.tokens) for batch in batches)
        deciding = copied + rows * SAMPLING * self.vocabulary
        return self.base + held + beyond + max(deciding, limits.workspace)

    def one(self, tokens: int, limits: Configure) -> int:
        """Bytes in all, of one request alone that comes to so many tokens."""
        return self.need([Batch(1, tokens)], limits)

    def fits(self, batches: Sequence[Batch], limits: Configure) -> bool:
        return not limits.memory or not self.layers or self.need(batches, limits) <= limits.memory

    def alone(self, tokens: int, limits: Configure) -> bool:
        """Whether one request that comes to so many tokens fits where nothing else runs."""
        return self.fits([Batch(1, tokens)], limits)

    def largest(self, limits: Configure) -> int:
        """Tokens, prompt and output together, of the longest request that runs alone within the limits."""
        most = limits.context
        if self.alone(most, limits):
            return most
        low, high = 0, most  # `low` fits or is nothing, `high` does not fit
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.alone(middle, limits) else (low, middle)
        return low


FREE = Price()  # of what has not been measured


def measure(caches: Sequence[Any], base: int, vocabulary: int) -> Price:
    """The price list, from the flat caches of one row that holds some tokens already."""
    return Price(tuple(layer_of(cache) for cache in caches), base, vocabulary)


def layer_of(cache: Any) -> Layer:
    keys = getattr(cache, "keys", None)
    if keys is None:
        return Layer(fixed=int(cache.nbytes))
    arrays = [
        array for held in (keys, cache.values) for array in (held if isinstance(held, tuple) else (held,))
    ]
    per_token = sum(array.nbytes // array.shape[2] for array in arrays if array.shape[2])
    window = getattr(cache, "max_size", None)  # a chunked cache is trimmed too, but only to whole chunks
    return Layer(per_token=per_token, window=window)
