"""The end of a step: from the logits of a batch to the next token of each of its rows.

In this order: penalties and biases of the rows that have them; masks of the rows that follow a grammar
(`constraint`), all in one operation; then the samplers, one call for all rows with the same parameters.
So top-p, top-k and min-p choose among what the grammar allows. Rows that want none of this cost nothing.
"""

from __future__ import annotations

from typing import Any

import mlx.core

from appliance.engine import likely
from appliance.engine.constraint import masks
from appliance.engine.constraint.guide import Astray
from appliance.engine.row import Row
from appliance.engine.sampling import Sampler

mx: Any = mlx.core


class Picking:
    """For rows in this order, until a row comes or goes."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self._processed = any(row.processor is not None for row in rows)
        self.guided = [(index, row) for index, row in enumerate(rows) if row.guide is not None]
        self._asking = [index for index, row in enumerate(rows) if row.job.logprobs is not None]
        by_sampler: dict[Sampler, list[int]] = {}
        for index, row in enumerate(rows):
            by_sampler.setdefault(row.sampler, []).append(index)
        self._groups = [(sampler, mx.array(indices)) for sampler, indices in by_sampler.items()]
        flat = [index for indices in by_sampler.values() for index in indices]
        order = [0] * len(flat)
        for position, index in enumerate(flat):
            order[index] = position
        self._order = mx.array(order)

    def guide(self, tokens: list[int]) -> bool:
        """Tell the rows that follow something their newest tokens; whether one has nothing left to follow."""
        freed = False
        for index, row in self.guided:
            if row.primed and not row.read and row.guide is not None and row.failed is None:
                try:
                    row.guide.take(tokens[index])
                except Astray as error:
                    row.astray(str(error))
                except Exception as error:  # noqa: BLE001  whatever it is, it is this row's alone
                    row.failed = f"{type(error).__name__}: {error}"
                if row.guide.settles:
                    row.output.settle()
                if row.guide.free:
                    row.guide, freed = None, True
        return freed

    def pick(self, newest: Any, logits: Any) -> tuple[Any, list[Any]]:
        """The next tokens, (rows,), and arrays to compute along. What raises for a row sets its `failed`.

        newest: (rows,) tokens. logits: (rows, vocabulary).
        """
        changed, states = self._process(newest, logits) if self._processed else (logits, [])
        if self.guided:
            changed = masks.apply(self.guided, changed)
        tokens = self._sample(changed)
        if self._asking:
            states += likely.tell([(index, self._rows[index]) for index in self._asking], logits, tokens)
        return tokens, states

    def _process(self, newest: Any, logits: Any) -> tuple[Any, list[Any]]:
        parts, states = [], []
        for index, row in enumerate(self._rows):
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
        if len(self._groups) == 1:
            return self._groups[0][0](logits).astype(mx.uint32)
        parts = [sampler(logits[indices]) for sampler, indices in self._groups]
        return mx.concatenate(parts)[self._order].astype(mx.uint32)
