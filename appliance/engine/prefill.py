"""Prompts in chunks, until only their last tokens are left to compute."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import mlx.core

from appliance.engine import caches, layers
from appliance.engine.row import Row

mx: Any = mlx.core


class Prefill:
    """Prompts worked on together, all but their last token.

    Several rows only when they fit into one chunk together; a longer prompt goes alone, chunk by chunk, and
    so does one whose beginning was restored: `cache` holds its first `done` tokens then.
    """

    def __init__(
        self,
        net: Any,
        rows: list[Row],
        kv_bits: int | None,
        cache: list[Any] | None = None,
        done: int = 0,
    ) -> None:
        self.rows = rows
        self.cache: list[Any] = cache or []
        self.plain = True  # known when it starts: rows may be cancelled before
        self.done = done  # tokens of the longest prompt
        self.waited = 0  # chunks of others since its own last one
        self.width = 0  # tokens of the last chunk, padded ones included
        self.seconds = 0.0  # that it took
        self._behind: list[Any] = []
        self._net = net
        self._kv_bits = kv_bits

    @property
    def left(self) -> int:
        """Tokens of the longest prompt still to process."""
        return max(len(row.job.prompt) for row in self.rows) - 1 - self.done

    def held(self, row: Row) -> list[int]:
        """The tokens that `cache` holds for a row."""
        return row.job.prompt[: min(self.done, len(row.job.prompt) - 1)]

    def advance(self, chunk: int, behind: list[Any] | None = None) -> int:
        """Process the next `chunk` tokens, padded ones included; how many prompt tokens that were.

        A row alone pauses where its trail says so. behind: arrays that the device is still computing; they
        are waited for before the clock of `seconds` starts, and after the work has been put together.
        """
        self._behind = behind or []
        if not self.cache:
            empty = [caches.make(self._net, self._kv_bits) for _ in self.rows]
            self.plain = len(empty) == 1
            self.cache = empty[0] if self.plain else layers.merged(empty)
        if self.plain:
            prompt = self.rows[0].job.prompt
            end = min(self.done + chunk, len(prompt) - 1)
            end = min([end, *(stop for stop in stops(self.rows[0]) if stop > self.done)])
            pieces = [prompt[self.done : end]]
        else:
            pieces = [row.job.prompt[:-1] for row in self.rows]
            end = self.done + self.left
        self._run(pieces)
        self.done = end
        return sum(map(len, pieces))

    def _run(self, pieces: list[list[int]]) -> None:
        lengths = [len(piece) for piece in pieces]
        longest = max(lengths)
        self.width, self.seconds = longest * len(pieces), 0.0
        if longest == 0:
            return
        padding = [longest - length for length in lengths]
        padded = any(padding)
        if padded:
            for cache in self.cache:
                cache.prepare(lengths=lengths, right_padding=padding)
        tokens = [piece + [0] * pad for piece, pad in zip(pieces, padding, strict=True)]
        self._net(mx.array(tokens), cache=self.cache)
        if padded:
            for cache in self.cache:
                cache.finalize()
        mx.eval(self._behind)
        began = time.perf_counter()
        mx.eval([cache.state for cache in self.cache])
        self.seconds = time.perf_counter() - began


def stops(row: Row) -> Sequence[int]:
    """Where a prefill of this row must pause before its end, ascending."""
    last = len(row.job.prompt) - 1
    return () if row.trail is None else [stop for stop in row.trail.stops if 0 < stop < last]
