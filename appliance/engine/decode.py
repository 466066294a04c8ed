"""The device half of continuous batching: all rows, one token at a time.

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
are read, so detokenising and sending overlap with computing. Where a row's next token depends on the one
before it beyond the model (a grammar, a budget of thinking), the forward pass is launched, the tokens are
read and the masks computed beside it, and only then the picking is launched: the order of work on the device
is the same, and it waits only where masks take longer than the pass.

On MLX's CPU backend a launch returns only when no more than ten operations are left to compute. There the
first tokens of rows that begin alone are read before their next step is launched, not after it (`first`).
"""

from __future__ import annotations

from typing import Any

import mlx.core

from appliance.engine import layers
from appliance.engine.likely import Told
from appliance.engine.pacing import Shares
from appliance.engine.picking import Picking
from appliance.engine.prefill import Prefill
from appliance.engine.row import Row

mx: Any = mlx.core

LAUNCH_WAITS = mx.default_device() == mx.cpu


class Decoding:
    """The rows that get one token a step."""

    def __init__(self, net: Any, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = rows or []
        self.share = Shares()
        self._net = net
        self._cache: list[Any] = []
        self._plain = True
        self._next: Any = None  # (rows,) newest token of each row, perhaps still being computed
        self._picking: Picking | None = None  # for the rows as they are now

    @property
    def cache(self) -> list[Any]:
        return self._cache

    def place(self, row: Row) -> int | None:
        """Where in `cache` a row is; None: it is alone, and the caches are plain ones."""
        return None if self._plain else self.rows.index(row)

    def held(self, row: Row) -> list[int]:
        """The tokens that `cache` holds for a row, or will when the step under way is computed.

        A step is launched before the tokens of the one before are read, so the newest token that was read
        is in there too; it is not where the last step launched nothing, or before a row's first one, or
        where it was read ahead of its step.
        """
        text = row.job.prompt + row.tokens
        return text if row.primed and not row.read and self._next is not None else text[:-1]

    @property
    def pending(self) -> Any:
        """The newest tokens, which the device may still be computing."""
        return self._next

    @classmethod
    def of(cls, net: Any, prefill: Prefill) -> Decoding:
        """The rows of a finished prefill; their first token comes with the next step, or the one after."""
        made = cls(net)
        made.join(prefill)
        return made

    def join(self, prefill: Prefill) -> None:
        """Take over the rows of a finished prefill."""
        last = mx.array([row.job.prompt[-1] for row in prefill.rows], dtype=mx.uint32)
        if prefill.logits is not None:
            last, states = Picking(prefill.rows).pick(last, prefill.logits)
            mx.async_eval(last, *states)
            for row in prefill.rows:
                row.primed = True
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
        made._picking = self._picking = None
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
        self._picking = None

    def _clear(self) -> None:
        self.rows, self._cache, self._plain, self._next, self._picking = [], [], True, None, None

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
        self._picking = None

    @property
    def opens(self) -> bool:
        """Only first tokens are under way here, and waiting for the next launch would delay them."""
        return LAUNCH_WAITS and all(row.primed and not row.tokens for row in self.rows)

    def first(self) -> list[tuple[Row, int]]:
        """The first tokens of all rows; nothing is launched. Where it `opens`; then comes a step."""
        tokens = self._next.tolist()
        sound = [(row, token) for row, token in zip(self.rows, tokens, strict=True) if row.failed is None]
        if self._picking is None:
            self._picking = Picking(self.rows)
        if self._picking.guide(tokens):
            self._picking = None
        for row, token in sound:
            self._take(row, token, row.telling)
            row.read = True
        return sound

    @staticmethod
    def _take(row: Row, token: int, likely: Told | None) -> None:
        row.tokens.append(token)
        if likely is not None:
            row.likely.append((token, likely.read()))

    def step(self, *, last: bool = False) -> list[tuple[Row, int]]:
        """Launch the next step, then return the tokens of the one before.

        last: every row ends with the tokens returned, so there is nothing to launch. Tokens that were read
        ahead are not returned again.
        A row whose processor or grammar raised has `failed` set; what it gets is of no use.
        """
        newest, told = self._next, [row.telling for row in self.rows]
        astray = {row for row in self.rows if row.failed is not None}  # as their first tokens were picked
        if last:
            self._next = None
            tokens = newest.tolist()
        else:
            if self._picking is None:
                self._picking = Picking(self.rows)
            picking = self._picking
            logits = self._net(newest[:, None], cache=self._cache)[:, -1, :]
            if picking.guided:  # what may come next depends on the newest token, which is read meanwhile
                mx.async_eval(logits)
                tokens = newest.tolist()
                freed = picking.guide(tokens)
                self._launch(picking, newest, logits)
                self._picking = None if freed else picking
            else:
                self._launch(picking, newest, logits)
                tokens = newest.tolist()
        ready = []
        for row, token, likely in zip(self.rows, tokens, told, strict=True):
            if row.read:
                row.read = False
            elif row in astray:
                continue
            elif row.primed:
                self._take(row, token, likely)
                ready.append((row, token))
            else:
                row.primed = True
        return ready

    def _launch(self, picking: Picking, newest: Any, logits: Any) -> None:
        self._next, states = picking.pick(newest, logits)
        mx.async_eval(self._next, *states)

    def pick(self, newest: Any, logits: Any) -> None:
        """Only the end of a step, for trial: the rows pick their next tokens from these logits, twice."""
        picking = Picking(self.rows)
        for _ in range(2):
            tokens, states = picking.pick(newest, logits)
            mx.eval(tokens, *states)
        for row in self.rows:
            if row.failed is not None:
                raise RuntimeError(row.failed)
