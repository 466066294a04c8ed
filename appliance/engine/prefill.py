"""Prompts in chunks, to the end, or until only their last tokens are left to compute."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core
from mlx_lm.models.cache import RotatingKVCache

from appliance.engine import caches, layers
from appliance.engine.head import Head
from appliance.engine.row import Row

mx: Any = mlx.core

TELLING = 64  # tokens: the time of a shorter chunk with a step behind it says little of its speed


@dataclass(frozen=True)
class Turn:
    """What a prompt may take of the device before others have their turn; figures are tokens.

    chunk: of one pass, padded ones included. most: of the last chunk, where that is more. joint: of a last
    chunk, at most, with which the last token goes through in one pass. behind: arrays that the device still
    computes for rows that decode. alone: there are no such rows.
    """

    chunk: int
    most: int = 0
    joint: int = 0
    behind: Sequence[Any] = ()
    alone: bool = False


class Prefill:
    """Prompts worked on together, all but their last token, which goes through with the first step.

    Where nothing decodes there is no first step to go through with: the last token's pass is launched right
    behind its last chunk, and `logits`, (1, vocabulary), are computed with it. Where the model's `head` can
    give them for one token of many, and the chunk is short, the two are one pass. Not with a long one:
    without logits nothing of the last layer is computed but its keys and values, and with them its attention
    and the rest of it for every token of the chunk.

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
        head: Head | None = None,
    ) -> None:
        self.rows = rows
        self.cache: list[Any] = cache or []
        self.plain = True  # known when it starts: rows may be cancelled before
        self.done = done  # tokens of the longest prompt
        self.waited = 0  # chunks of others since its own last one
        self.width = 0  # tokens of the last chunk, padded ones included
        self.seconds = 0.0  # that it took
        self._behind: Sequence[Any] = ()
        self._net = net
        self._kv_bits = kv_bits
        self._head = head
        self.logits: Any = None
        self.whole: list[Any] = []  # the caches as the last chunk left them, where a step lost some of it

    @property
    def left(self) -> int:
        """Tokens of the longest prompt still to process."""
        return max(len(row.job.prompt) for row in self.rows) - 1 - self.done

    def held(self, row: Row) -> list[int]:
        """The tokens that `kept` hold for a row."""
        if self.logits is not None and not self.whole:
            return row.job.prompt
        return row.job.prompt[: min(self.done, len(row.job.prompt) - 1)]

    @property
    def kept(self) -> list[Any]:
        """Caches to keep something of; per-token ones beside rotating ones may hold a token more."""
        return self.whole or self.cache

    def advance(self, turn: Turn) -> int:
        """Process the next chunk; how many prompt tokens that were, without the last one.

        A row alone pauses where its trail says so. What is still being computed for others is waited for
        before the clock of `seconds` starts, and after the work has been put together.
        """
        self._behind = turn.behind
        if not self.cache:
            empty = [caches.make(self._net, self._kv_bits) for _ in self.rows]
            self.plain = len(empty) == 1
            self.cache = empty[0] if self.plain else layers.merged(empty)
        if self.plain:
            prompt = self.rows[0].job.prompt
            end = len(prompt) - 1 if self.left <= max(turn.chunk, turn.most) else self.done + turn.chunk
            end = min([end, *(stop for stop in pauses(self.rows[0]) if stop > self.done)])
            pieces = [prompt[self.done : end]]
            head = self._head if end - self.done <= turn.joint else None
            if end == len(prompt) - 1 and (turn.alone or head) and not _pauses_at(self.rows[0], end):
                self._finish(prompt[self.done :], head)
                self.done = end
                return len(pieces[0])
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
        self._compute()

    def _finish(self, piece: list[int], head: Head | None) -> None:
        """The last chunk and the last token."""
        self.width = len(piece) if len(piece) > TELLING else 0
        if head is not None:
            with head.last():
                logits = self._net(mx.array([piece]), cache=self.cache)
        else:
            if len(piece) > 1:
                self._net(mx.array([piece[:-1]]), cache=self.cache)
                if any(type(cache) is RotatingKVCache for cache in self.cache):
                    self.whole = [_as_it_is(cache) for cache in self.cache]
            logits = self._net(mx.array([piece[-1:]]), cache=self.cache)
        self.logits = logits[:, -1]
        self._compute(self.logits)

    def _compute(self, *more: Any) -> None:
        mx.eval(*self._behind)
        began = time.perf_counter()
        mx.eval([cache.state for cache in self.cache], *more)
        self.seconds = time.perf_counter() - began


def _as_it_is(cache: Any) -> Any:
    """A step turns a rotating cache over; what it holds before is a small copy to keep."""
    return copy.copy(cache) if type(cache) is RotatingKVCache else cache


def _pauses_at(row: Row, end: int) -> bool:
    return row.trail is not None and not row.trail.passes and end in row.trail.stops


def pauses(row: Row) -> Sequence[int]:
    """Those of the stops at which a chunk must end."""
    return () if row.trail is None or row.trail.passes else stops(row)


def stops(row: Row) -> Sequence[int]:
    """Where the prompt cache wants a state before a prefill's end, ascending."""
    last = len(row.job.prompt) - 1
    return [] if row.trail is None else [stop for stop in row.trail.stops if 0 < stop < last]
