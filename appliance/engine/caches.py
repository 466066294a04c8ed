"""The one place where a model's empty caches come from.

With `kv_bits` every cache that keeps all keys and values is a quantised one. Rotating and chunked caches
and states of one size stay as the model makes them: mlx-lm cannot quantise the first two, and the last do
not grow.
"""

from __future__ import annotations

from typing import Any

from mlx_lm.models.cache import CacheList, KVCache, make_prompt_cache

from appliance.engine.quantized import QuantizedCache

Caches = list[Any]  # one cache per layer


def make(net: Any, kv_bits: int | None) -> Caches:
    """Empty plain caches for one row of this model. kv_bits: 4, 8, or None for the model's own."""
    caches = list(make_prompt_cache(net))
    return caches if kv_bits is None else [quantized(cache, kv_bits) for cache in caches]


def quantized(cache: Any, bits: int) -> Any:
    """The quantised form of one layer's empty cache, or the cache itself where it has none."""
    if isinstance(cache, CacheList):
        return CacheList(*(quantized(member, bits) for member in cache.caches))
    return QuantizedCache(bits) if type(cache) is KVCache else cache


def any_quantized(caches: Caches) -> bool:
    """Whether `kv_bits` has changed any of these."""
    return any(
        any_quantized(cache.caches) if isinstance(cache, CacheList) else isinstance(cache, QuantizedCache)
        for cache in caches
    )
