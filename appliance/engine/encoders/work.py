"""Questions cut into slices that share the device. Pure.

A slice is what the model computes in one go: at most so many tokens, padding included, so memory is bounded
whatever a request brings, and nobody waits longer than one slice. Inputs of one question go by length, the
longest first, so that rows of a slice differ little; what room a slice has left goes to other questions'
inputs of about the same length. Whose question is first is decided as in chats: the caller who was served
least (`fairness`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from appliance.engine.encoders.tokens import Item
from appliance.engine.fairness import Fair

ALIKE = 0.5  # a row shorter than this part of a slice's longest is left for another slice


@dataclass(eq=False)
class Job:
    """One question. number: its own on the wire. width: numbers per input."""

    number: int
    caller: str
    items: Sequence[Item]
    width: int
    dimensions: int | None = None  # of an embedding, the first so many
    ranks: bool = False
    order: list[int] = field(default_factory=list)  # inputs still to be computed, shortest first
    missing: int = 0  # inputs without a result
    found: npt.NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        self.order = sorted(range(len(self.items)), key=lambda index: len(self.items[index]))
        self.missing = len(self.items)
        self.found = np.empty((len(self.items), self.width), dtype=np.float32)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.items))

    def put(self, index: int, values: npt.NDArray[np.float32]) -> None:
        self.found[index] = values
        self.missing -= 1


@dataclass(frozen=True)
class Slice:
    """Rows to be computed together, as (question, index of its input)."""

    rows: tuple[tuple[Job, int], ...]

    @property
    def items(self) -> list[Item]:
        return [job.items[index] for job, index in self.rows]

    @property
    def jobs(self) -> set[Job]:
        return {job for job, _ in self.rows}


class Work:
    """The questions at hand."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []  # in the order they came
        self._fair = Fair()

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        busy = any(other.caller == job.caller for other in self._jobs)
        self._fair.arrive(job.caller, busy)
        self._jobs.append(job)

    def drop(self, job: Job) -> None:
        """It is done, or has failed."""
        self._jobs.remove(job)

    def take_back(self, number: int) -> bool:
        """Its asker has gone. Whether it was here."""
        for job in self._jobs:
            if job.number == number:
                self._jobs.remove(job)
                return True
        return False

    def next(self, budget: int) -> Slice:
        """The next slice, of at most `budget` tokens; a longer input makes one alone. Only if there is
        work."""
        waiting = [job for job in self._jobs if job.order]
        caller = self._fair.next(job.caller for job in waiting)
        self._fair.start(caller)
        first = next(job for job in waiting if job.caller == caller)
        rows: list[tuple[Job, int]] = []
        longest = len(first.items[first.order[-1]])
        for job in [first, *(other for other in waiting if other is not first)]:
            self._fill(rows, job, longest, budget)
        return Slice(tuple(rows))

    def _fill(self, rows: list[tuple[Job, int]], job: Job, longest: int, budget: int) -> None:
        """Take a question's inputs, the longest of those that fit first."""
        at = len(job.order) - 1
        taken = 0
        while at >= 0:
            length = len(job.items[job.order[at]])
            if length <= longest:
                if rows and ((len(rows) + 1) * longest > budget or length < ALIKE * longest):
                    break
                rows.append((job, job.order.pop(at)))
                taken += length
            at -= 1
        if taken:
            self._fair.charge(job.caller, taken)
