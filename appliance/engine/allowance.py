"""The bytes this engine may hold: whether more rows fit, and what MLX may keep beside them.

What is reserved for the running rows and what MLX keeps in freed buffers share one allowance, so the
buffer cache gets what the rows leave of it. MLX's own `set_memory_limit` is of no use for that: on the CPU
backend it neither refuses an allocation nor gives a buffer back.
"""

from __future__ import annotations

import mlx.core as mx

from appliance.engine import wiring
from appliance.engine.pricing import Price
from appliance.wire import Configure


class Allowance:
    """Only for the decode thread."""

    def __init__(self, price: Price, limits: Configure) -> None:
        self.price = price
        self._limits = limits
        self._rows = 0
        self._tokens = 0
        self._cache: int | None = None
        self._wired = 0  # nothing has been wired by whoever starts
        self.apply(limits)

    @property
    def reserved(self) -> int:
        """Bytes that the running rows' caches may still come to."""
        return self.price.cache(self._rows, self._tokens) if self._rows else 0

    def apply(self, limits: Configure) -> None:
        self._limits = limits
        if limits.wired != self._wired:
            self._wired = limits.wired
            wiring.wire(limits.wired)
        self._share()
        if not limits.buffer_cache:
            mx.clear_cache()

    def fits(self, rows: int, tokens: int) -> bool:
        return self.price.fits(rows, tokens, self._limits)

    def hold(self, rows: int, tokens: int) -> None:
        """So many rows run now, and the longest comes to so many tokens."""
        if (rows, tokens) != (self._rows, self._tokens):
            self._rows, self._tokens = rows, tokens
            self._share()

    def tidy(self) -> None:
        """Give freed buffers back once they would not fit."""
        limit = self._limits.memory
        if limit and mx.get_active_memory() + mx.get_cache_memory() > limit:
            mx.clear_cache()

    def _share(self) -> None:
        limits = self._limits
        spare = limits.buffer_cache
        if limits.memory and self.price.layers:
            need = self.price.need(self._rows, self._tokens, limits)
            spare = min(spare, max(0, limits.memory - need))
        if spare != self._cache:
            self._cache = spare
            mx.set_cache_limit(spare)
            if mx.get_cache_memory() > spare:
                mx.clear_cache()
