"""The bytes this engine may hold: whether more rows fit, and what may be kept beside them.

What is reserved for the running rows, the prompt cache's memory and what MLX keeps in freed buffers share
one allowance. Rows come first: what they leave is lent to the prompt cache, and what that leaves to MLX's
buffers. MLX's own `set_memory_limit` is of no use for that: on the CPU backend it neither refuses an
allocation nor gives a buffer back.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from appliance.engine import freed, wiring
from appliance.engine.pricing import Batch, Price
from appliance.engine.reuse import Reuse
from appliance.wire import Configure

GRAIN = 2**24  # bytes by which the share of MLX's buffers changes


class Allowance:
    """Only for the decode thread."""

    def __init__(self, price: Price, limits: Configure, reuse: Reuse) -> None:
        self.price = price
        self._limits = limits
        self._reuse = reuse
        self.reserved = 0  # bytes that the running rows' caches may still come to
        self._batches: list[Batch] = []
        self._spare = 0  # bytes that the rows leave of the allowance, where there is one
        self._lent: int | None = None  # bytes the prompt cache may hold at most; None: not said yet
        self._cache: int | None = None
        self._wired = 0  # nothing has been wired by whoever starts
        self.apply(limits)

    def apply(self, limits: Configure) -> None:
        self._limits = limits
        if limits.wired != self._wired:
            self._wired = limits.wired
            wiring.wire(limits.wired)
        self._share()
        if not limits.buffer_cache:
            freed.release()

    def fits(self, batches: Sequence[Batch]) -> bool:
        return self.price.fits(batches, self._limits)

    def hold(self, batches: list[Batch]) -> None:
        """These run now."""
        if batches != self._batches:
            self._batches = batches
            self.reserved = sum(self.price.cache(batch.rows, batch.tokens) for batch in batches)
            self._share()

    def tidy(self) -> None:
        """Once a turn: MLX's buffers make room for the prompt cache, and go once they would not fit."""
        limit = self._limits.memory
        if not limit:
            return
        self._buffers()
        if mx.get_active_memory() + mx.get_cache_memory() > limit:
            mx.clear_cache()

    def _share(self) -> None:
        limits = self._limits
        lent = limits.cache_memory
        if limits.memory and self.price.layers:
            self._spare = max(0, limits.memory - self.price.need(self._batches, limits))
            lent = min(lent, self._spare)
        if lent != self._lent:
            self._lent = lent
            self._reuse.shrink(lent)
        self._buffers()

    def _buffers(self) -> None:
        limits = self._limits
        share = limits.buffer_cache
        if limits.memory and self.price.layers:
            left = max(0, self._spare - self._reuse.nbytes)
            share = min(share, left if left < GRAIN else left // GRAIN * GRAIN)
        if share != self._cache:
            freed.keep(share)
            self._cache = share
