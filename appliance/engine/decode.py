"""The device half of continuous batching: prompts in chunks, then all rows one token at a time.

It does the work of mlx-lm's `BatchGenerator` on mlx-lm's own models and caches (`merge`, `extend`,
`filter`, `extract`), with these differences. Figures are processor time per step of a 5 M model on the
CPU backend; bench/limit.py compares the whole.

- A row alone keeps the model's plain cache: 4.55 ms against 4.92 with the batched form, which builds a
  mask and per-row offsets at each step, and 5.03 in `BatchGenerator`. Without a batched form it is all
  there is, so such models take the same road, one row at a time.
- No log-probabilities, which mlx-lm normalises, slices and synchronises per row: 12.7 ms against 13.3 at
  16 rows, and more on a device where a synchronisation stalls the queue.
- A new row's first token is computed in the same forward pass as everyone's next one.
- Rows leave without their caches being copied out, and several prompt batches of different lengths are
  worked on in turn, so that short prompts neither wait for a long one nor are padded to its length.

The device is never idle while Python works: a step is launched before the tokens of the one before it
are read, so detokenising and sending overlap with computing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core

from appliance.engine import caches, layers
from appliance.engine.output import Output
from appliance.engine.pacing import Shares
from appliance.engine.prompt import Job
from appliance.engine.reuse import Trail
from appliance.engine.sampling import Processor, Sampler

mx: Any = mlx.core


@dataclass(eq=False, slots=True)
class Row:
    """One request on the device."""

    job: Job
    output: Output
    sampler: Sampler
    processor: Processor | None
    trail: Trail | None = None  # what the prompt cache keeps of it; None: nobody asks
    tokens: list[int] = field(default_factory=list)  # generated, and read back from the device
    primed: bool = False  # the last prompt token has gone through
    failed: str | None = None  # what its own processor raised

    @property
    def produced(self) -> int:
        return len(self.tokens)


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


class Decoding:
    """The rows that get one token a step."""

    def __init__(self, net: Any, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = rows or []
        self.share = Shares()
        self._net = net
        self._cache: list[Any] = []
        self._plain = True
        self._next: Any = None  # (rows,) newest token of each row, perhaps still being computed
        self._groups: list[tuple[Sampler, Any]] | None = None
        self._order: Any = None

    @property
    def cache(self) -> list[Any]:
        return self._cache

    def place(self, row: Row) -> int | None:
        """Where in `cache` a row is; None: it is alone, and the caches are plain ones."""
        return None if self._plain else self.rows.index(row)

    def held(self, row: Row) -> list[int]:
        """The tokens that `cache` holds for a row, or will when the step under way is computed.

        A step is launched before the tokens of the one before are read, so the newest token that was read
        is in there too; it is not where the last step launched nothing, or before a row's first one.
        """
        text = row.job.prompt + row.tokens
        return text if row.primed and self._next is not None else text[:-1]

    @property
    def pending(self) -> Any:
        """The newest tokens, which the device may still be computing."""
        return self._next

    @classmethod
    def of(cls, net: Any, prefill: Prefill) -> Decoding:
        """The rows of a finished prefill; they get their first token two steps from now."""
        made = cls(net)
        made.join(prefill)
        return made

    def join(self, prefill: Prefill) -> None:
        """Take over the rows of a finished prefill."""
        last = mx.array([row.job.prompt[-1] for row in prefill.rows], dtype=mx.uint32)
        self._add(prefill.rows, prefill.cache, prefill.plain, last)

    def absorb(self, other: Decoding) -> None:
        """Take over all rows of another batch, which is empty afterwards."""
        self._add(other.rows, other._cache, other._plain, other._next)
        other._clear()

    def take(self, rows: list[Row]) -> Decoding:
        """These rows as a batch of their own; the others stay, in their order."""
        made = Decoding(self._net)
        taken = [index for index, row in enumerate(self.rows) if row in rows]
        rest = [index for index, row in enumerate(self.rows) if row not in rows]
        if not rest:
            made.absorb(self)
            return made
        if not taken:
            return made
        made._cache, self._cache = layers.split(self._cache, taken, rest)
        for batch, indices in ((made, taken), (self, rest)):
            batch._plain = len(indices) == 1
        made._next, self._next = self._next[mx.array(taken)], self._next[mx.array(rest)]
        made.rows = [self.rows[index] for index in taken]
        self.rows = [self.rows[index] for index in rest]
        made._groups = self._groups = None
        return made

    def _add(self, rows: list[Row], cache: list[Any], plain: bool, last: Any) -> None:
        if not rows:
            return
        if not self.rows:
            self._cache, self._plain, self._next = cache, plain, last
        else:
            self._cache = layers.join(self._cache, self._plain, cache, plain)
            self._plain = False
            self._next = mx.concatenate([self._next, last])
        self.rows = [*self.rows, *rows]
        self._groups = None

    def _clear(self) -> None:
        self.rows, self._cache, self._plain, self._next, self._groups = [], [], True, None, None

    def keep(self, rows: list[Row]) -> None:
        """Drop all other rows. `rows` in their present order."""
        if len(rows) == len(self.rows):
            return
        indices = [index for index, row in enumerate(self.rows) if row in rows]
        if not indices:
            self._cache, self._plain, self._next = [], True, None
        else:
            if len(indices) == 1:
                self._cache, self._plain = layers.alone(self._cache, indices[0]), True
            else:
                layers.keep(self._cache, indices)
            self._next = None if self._next is None else self._next[mx.array(indices)]
        self.rows = rows
        self._groups = None

    def step(self, *, last: bool = False) -> list[tuple[Row, int]]:
        """Launch the next step, then return the tokens of the one before.

        last: every row ends with the tokens returned, so there is nothing to launch.
        A row whose processor raised has `failed` set and gets no token.
        """
        newest = self._next
        if last:
            self._next = None
        else:
            logits = self._net(newest[:, None], cache=self._cache)[:, -1, :]
            logits, states = self._process(newest, logits)
            self._next = self._sample(logits)
            mx.async_eval(self._next, *states)
        tokens = newest.tolist()
        ready = []
        for row, token in zip(self.rows, tokens, strict=True):
            if row.primed:
                row.tokens.append(token)
                ready.append((row, token))
            else:
                row.primed = True
        return ready

    def pick(self, newest: Any, logits: Any) -> None:
        """Only the end of a step, for trial: the rows pick their next tokens from these logits, twice."""
        for _ in range(2):
            changed, states = self._process(newest, logits)
            mx.eval(self._sample(changed), *states)
        for row in self.rows:
            if row.failed is not None:
                raise RuntimeError(row.failed)

    def _process(self, newest: Any, logits: Any) -> tuple[Any, list[Any]]:
        """Apply the rows' own processors; the logits, and the processors' arrays to compute along."""
        if all(row.processor is None for row in self.rows):
            return logits, []
        parts, states = [], []
        for index, row in enumerate(self.rows):
            part = logits[index : index + 1]
            if row.processor is not None and row.failed is None:
                try:
                    part = row.processor(newest[index : index + 1], part)
                    states.extend(row.processor.state)
                except Exception as error:  # noqa: BLE001  whatever it is, it is this row's alone
                    row.failed = f"{type(error).__name__}: {error}"
            parts.append(part)
        return mx.concatenate(parts, axis=0), states

    def _sample(self, logits: Any) -> Any:
        if self._groups is None:
            self._group()
        assert self._groups is not None
        if len(self._groups) == 1:
            return self._groups[0][0](logits).astype(mx.uint32)
        parts = [sampler(logits[indices]) for sampler, indices in self._groups]
        return mx.concatenate(parts)[self._order].astype(mx.uint32)

    def _group(self) -> None:
        """Rows with the same sampler, so that one call serves them all."""
        by_sampler: dict[Sampler, list[int]] = {}
        for index, row in enumerate(self.rows):
            by_sampler.setdefault(row.sampler, []).append(index)
        self._groups = [(sampler, mx.array(indices)) for sampler, indices in by_sampler.items()]
        flat = [index for indices in by_sampler.values() for index in indices]
        order = [0] * len(flat)
        for position, index in enumerate(flat):
            order[index] = position
        self._order = mx.array(order)
