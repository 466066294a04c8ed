"""What a decode step of this model costs on this machine, for `groups`: timed at warm-up.

Three batches are timed in turn: one row, two short rows, and two whose caches hold many tokens. The tokens
are zeros, written straight into the caches, since computing them would take seconds on a large model. Each
figure is the least of a few rounds, so that other programs on the machine spoil it only if they never pause.

What cannot be is not believed: a step reads the weights once and the keys and values once, so what a token
costs is to what a batch costs about as its bytes are to the weights'. Less than `LEAST` of that is noise,
and more than `MOST` too (a mixture of experts reads few of its weights, so that end is wide).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from appliance.engine.decode import Decoding
from appliance.engine.groups import UNMEASURED, Cost
from appliance.engine.layers import flat
from appliance.engine.load import Model
from appliance.engine.pricing import layer_of

log = logging.getLogger(__name__)

TIMES = 5  # rounds
ENOUGH = 1.5  # seconds: a slow model is timed less often
LEAST, MOST = 1 / 4, 16.0
BYTES = 64 * 2**20  # of keys and values that the long rows hold together
LONG = 1024  # tokens of each at most: an engine has memory for a request of 4,096 in any case
SHORT = 256  # at least


def measure(model: Model, batch: Callable[[int], Decoding]) -> Cost:
    """batch(n): n short rows that decode, and may go on for a while. Only for batchable models."""
    try:
        one, two, more = batch(1), batch(2), batch(2)
        tokens, size = lengthen(more, model.context_max)
        alone, pair, long = seconds(one, two, more)
    except Exception:
        log.exception("a step cannot be timed; all rows will decode in one batch")
        return UNMEASURED
    # a second row costs something of its own, which is not part of what a second batch would
    fixed = min(alone, max(alone / 2, 2 * alone - pair))
    if not tokens:  # nothing grows with the text: padding costs nothing
        return Cost(fixed, 0.0)
    expected = fixed * size / model.weights_bytes
    per_token = min(MOST * expected, max(LEAST * expected, (long - pair) / (2 * tokens)))
    log.info("a step costs %.2f ms and %.2f ms per 1,000 tokens", 1e3 * fixed, 1e6 * per_token)
    return Cost(fixed, per_token)


def seconds(*batches: Decoding) -> list[float]:
    """The shortest step of each."""
    least = [float("inf")] * len(batches)
    began = time.perf_counter()
    for number in range(TIMES + 1):
        for index, batch in enumerate(batches):
            start = time.perf_counter()
            batch.step()
            mx.eval(batch.pending)
            if number:  # what a first step allocates is not timed
                least[index] = min(least[index], time.perf_counter() - start)
        if number and time.perf_counter() - began > ENOUGH:
            break
    return least


def lengthen(batch: Decoding, most: int) -> tuple[int, int]:
    """Put zeros into every cache that grows with the text: tokens put into each row, and bytes of one.

    Zeros where none grows, or the model's own limit `most` leaves no room to tell.
    """
    growing = [
        cache
        for cache in flat(batch.cache)
        if getattr(cache, "keys", None) is not None and layer_of(cache).window is None
    ]
    rows = len(batch.rows)
    size = sum(layer_of(cache).per_token for cache in growing) // rows
    tokens = min(most - SHORT, LONG, max(SHORT, BYTES // (rows * max(1, size))))
    if not growing or tokens < SHORT:
        return 0, 0
    for cache in growing:
        cache.update_and_fetch(
            zeros(cache, cache.keys, rows, tokens), zeros(cache, cache.values, rows, tokens)
        )
        mx.eval(cache.state)  # one after the other, so that one layer at most is held twice
    return tokens, size


def zeros(cache: Any, like: Any, rows: int, tokens: int) -> mx.array:
    """Keys or values as the model would hand them to this cache. like: what it holds of them."""
    if isinstance(like, (tuple, list)):  # quantised: packed, scales, biases
        packed, scales, _ = like
        return mx.zeros((rows, packed.shape[1], tokens, scales.shape[-1] * cache.group_size), scales.dtype)
    return mx.zeros((rows, like.shape[1], tokens, like.shape[-1]), like.dtype)
