"""The one place where a model's empty caches come from.

With `kv_bits` every cache that keeps all keys and values is a quantised one. Rotating caches and states of
one size stay as the model makes them: mlx-lm cannot quantise the first, and the second do not grow.
"""

from __future__ import annotations

from typing import Any

from mlx_lm.models.cache import make_prompt_cache

Caches = list[Any]  # one cache per layer


def make(net: Any, kv_bits: int | None) -> Caches:
    """Empty plain caches for one row of this model. kv_bits: 4, 8, or None for the model's own."""
    return list(make_prompt_cache(net))
