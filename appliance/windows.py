"""Figures over a while, in bounded memory: counts in buckets of time, a slow median, quantiles."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Hashable, Sequence

SETTLED = 32  # values before a slow median is one
STEP = 0.001  # of itself that a slow median moves per value: twice as slow a stream takes 700 of its kind
KINDS = 64  # different things counted apart in one bucket; more are dropped


class Counts:
    """How often each of a few things happened over the last `window` seconds, in `buckets` parts of it."""

    def __init__(self, window: float, buckets: int) -> None:
        self.window = window
        self._width = window / buckets
        self._buckets: deque[tuple[int, Counter[Hashable]]] = deque(maxlen=buckets)

    def add(self, what: Hashable, now: float) -> None:
        number = int(now // self._width)
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append((number, Counter()))
        counter = self._buckets[-1][1]
        if what in counter or len(counter) < KINDS:
            counter[what] += 1

    def over(self, seconds: float, now: float) -> Counter[Hashable]:
        """The bucket under way counts as a whole one, so this may look back up to one bucket less."""
        first = int(now // self._width) - max(1, round(seconds / self._width)) + 1
        total: Counter[Hashable] = Counter()
        for number, counter in self._buckets:
            if number >= first:
                total.update(counter)
        return total


class SlowMedian:
    """The median of the first `SETTLED` values; then each further one moves it by a thousandth of itself.

    So it tells what was usual, for long after the values have changed.
    """

    def __init__(self) -> None:
        self._first: list[float] | None = []
        self._value = 0.0

    @property
    def value(self) -> float | None:
        return None if self._first is not None else self._value

    def add(self, value: float) -> None:
        if self._first is None:
            self._value *= 1 + STEP if value > self._value else 1 - STEP if value < self._value else 1
            return
        self._first.append(value)
        if len(self._first) == SETTLED:
            self._value, self._first = quantile(sorted(self._first), 0.5), None


def quantile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank: one of the values. Raises IndexError for none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
