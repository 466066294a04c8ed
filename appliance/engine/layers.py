"""Joining, leaving and splitting batches of caches, with little memory besides.

mlx-lm's `merge`, `extend`, `filter` and `extract` each copy what they touch, and nothing is computed until
something asks: over all layers at once, a batch of 375 MiB peaked at 609 when it lost a row. Layer by
layer, and keys before values, it peaks at one layer more. Small batches are left to the next step, which
computes the copies along with everything else and need not be waited for.

The functions here take the lists they are given apart, so that a layer's old arrays are free as soon as
the new ones exist.
"""

from __future__ import annotations

import copy
from typing import Any

import mlx.core
from mlx.utils import tree_flatten, tree_map

from appliance.engine.pricing import BIG

mx: Any = mlx.core
Caches = list[Any]  # one cache per layer


def merged(rows: list[Caches]) -> Caches:
    """Empty caches of several rows as one batched cache per layer."""
    return [layer[0].merge(list(layer)) for layer in zip(*rows, strict=True)]


def join(batch: Caches, batch_plain: bool, more: Caches, more_plain: bool) -> Caches:
    """One batch of both. Empties the two lists."""
    big = is_big(batch, more)
    joined = []
    batch.reverse()
    more.reverse()
    while batch:
        cache, new = batch.pop(), more.pop()
        if batch_plain:
            cache = cache.merge([cache])
        if more_plain:
            new = new.merge([new])
        cache.extend(new)
        del new
        if big:
            compute(cache)
        joined.append(cache)
    return joined


def keep(batch: Caches, rows: list[int]) -> None:
    """Only these rows, in place. The padding that nobody needs any more goes too."""
    big = is_big(batch)
    for cache in batch:
        cache.filter(rows)
        if big:
            for member in flat([cache]):
                if getattr(member, "keys", None) is not None:  # a slice would hold all it was cut from
                    member.keys, member.values = tree_map(mx.contiguous, (member.keys, member.values))
            compute(cache)


def alone(batch: Caches, row: int) -> Caches:
    """The plain caches of one row of a batch. Empties the list."""
    big = is_big(batch)
    plain = []
    batch.reverse()
    while batch:
        cache = batch.pop().extract(row)
        if big:
            compute(cache)
        plain.append(cache)
    return plain


def split(batch: Caches, taken: list[int], rest: list[int]) -> tuple[Caches, Caches]:
    """Two batches of one; plain caches where there is one row. Empties the list."""
    big = is_big(batch)
    parts: tuple[Caches, Caches] = [], []
    batch.reverse()
    while batch:
        cache = batch.pop()
        for part, rows in zip(parts, (taken, rest), strict=True):
            if len(rows) == 1:
                new = cache.extract(rows[0])
            else:
                new = shell(cache)
                new.filter(rows)
            if big:
                compute(new)
            part.append(new)
    return parts


def shell(cache: Any) -> Any:
    """Another cache of the same arrays: what is done to one leaves the other alone."""
    new = copy.copy(cache)
    if hasattr(cache, "caches"):
        new.caches = tuple(shell(member) for member in cache.caches)
    return new


def is_big(*batches: Caches) -> bool:
    size: int = sum(cache.nbytes for batch in batches for cache in batch)
    return size > BIG


def compute(cache: Any) -> None:
    """Make it real, one array after the other: the old keys are gone before the new values come."""
    for _, array in tree_flatten(cache.state):
        if isinstance(array, mx.array):
            mx.eval(array)


def flat(caches: Any) -> list[Any]:
    """Caches without their CacheList wrappers, which claim a `merge` their members may lack."""
    found: list[Any] = []
    for cache in caches:
        found.extend(flat(cache.caches) if hasattr(cache, "caches") else [cache])
    return found
