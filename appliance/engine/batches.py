"""The batches that decode, put together so that a step of all of them is cheap (see `groups`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from appliance.engine.decode import Decoding
from appliance.engine.groups import Group, regroup
from appliance.engine.load import Model
from appliance.engine.pricing import Batch
from appliance.engine.row import Row


def priced(rows: Sequence[Row]) -> Batch:
    """What these rows cost as one batch."""
    return Batch(len(rows), max(row.job.total for row in rows))


class Batches:
    def __init__(self, model: Model) -> None:
        self.all: list[Decoding] = []
        self._model = model

    @property
    def rows(self) -> list[Row]:
        return [row for batch in self.all for row in batch.rows]

    def of(self, rid: int) -> tuple[Decoding, Row] | None:
        """Where a request decodes."""
        return next(((batch, row) for batch in self.all for row in batch.rows if row.job.rid == rid), None)

    def remove(self, batch: Decoding, rows: Sequence[Row]) -> None:
        """Drop rows of a batch, and the batch with the last of them."""
        batch.keep([row for row in batch.rows if row not in rows])
        if not batch.rows:
            self.all.remove(batch)

    def arrange(self, fits: Callable[[list[Batch]], bool]) -> None:
        """After rows have come or gone: divide them anew, where that pays. fits: whether there is memory."""
        if len(self.all) < 2 or not self._model.batchable:
            return
        rows = self.rows
        wanted = regroup(
            self._present(),
            [len(row.job.prompt) + row.produced for row in rows],
            [row.job.max_tokens - row.produced for row in rows],
            self._model.cost,
            lambda groups: fits([priced([rows[number] for number in group]) for group in groups]),
        )
        present = set(self._present())
        moving = [[rows[number] for number in group] for group in wanted if group not in present]
        for target in moving:
            self._bring(target)

    def _present(self) -> list[Group]:
        groups, first = [], 0
        for batch in self.all:
            groups.append(frozenset(range(first, first + len(batch.rows))))
            first += len(batch.rows)
        return groups

    def _bring(self, rows: list[Row]) -> None:
        """Make one batch of exactly these rows, wherever they are. The largest part takes in the others."""
        parts = []
        for batch in list(self.all):
            mine = [row for row in batch.rows if row in rows]
            if len(mine) == len(batch.rows):
                parts.append(batch)
                self.all.remove(batch)
            elif mine:
                parts.append(batch.take(mine))
        parts.sort(key=lambda part: len(part.rows), reverse=True)
        for part in parts[1:]:
            parts[0].absorb(part)
        self.all.append(parts[0])
