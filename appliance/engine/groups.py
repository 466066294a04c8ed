"""Which rows decode together: pure arithmetic over their lengths.

A batch is padded to its longest row, so its step costs

    fixed + per_token x rows x longest

`fixed` is what one more batch costs whatever is in it (reading the weights, launching kernels), `per_token`
what reading one token's keys and values does. One long row makes a batch of short ones slow; many batches
read the weights many times. The best division of rows sorted by length is always one into runs, so that
dynamic programming over the sorted lengths finds it in rows^2 steps.

Rows are moved only where that is worth it: what it saves in the steps that are still to come, at most
`HORIZON` of them, must exceed what the copying costs, and be more than `WORTH` of what their steps cost now.
So rows never move back and forth: all grow by one token a step, and what was best stays so until rows come
or go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

HORIZON = 256  # steps: requests end sooner than they may
WORTH = 0.03  # of what the rows in question cost now: less is within the error of the forecast
COPY = 4  # times per_token: a token that is moved is padded, joined, and read and written each time

Group = frozenset[int]  # numbers of rows
Fits = Callable[[Sequence[Group]], bool]


@dataclass(frozen=True)
class Cost:
    """Seconds, of one step. The default knows nothing, and puts all rows together."""

    fixed: float = 1.0
    per_token: float = 0.0

    def step(self, rows: int, longest: int) -> float:
        return self.fixed + self.per_token * rows * longest

    def of(self, groups: Iterable[Group], lengths: Sequence[int]) -> float:
        """One step of every group. lengths: of each row, prompt and output so far."""
        return sum(self.step(len(group), max(lengths[row] for row in group)) for group in groups)

    def moving(self, groups: Iterable[Group], lengths: Sequence[int]) -> float:
        """Seconds to put these groups together from others, padded as they will be."""
        return sum(COPY * self.per_token * len(g) * max(lengths[row] for row in g) for g in groups)


UNMEASURED = Cost()


def best(lengths: Sequence[int], cost: Cost) -> list[Group]:
    """The division with the cheapest step."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    least = [0.0]  # of the first n rows in that order
    begin = [0]  # where the last group of them starts
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        price, start = min((least[start] + cost.step(end - start, longest), start) for start in range(end))
        least.append(price)
        begin.append(start)
    groups, end = [], len(order)
    while end:
        groups.append(frozenset(order[begin[end] : end]))
        end = begin[end]
    return groups


def regroup(
    present: Sequence[Group],
    lengths: Sequence[int],
    left: Sequence[int],
    cost: Cost,
    fits: Fits = lambda groups: True,
) -> list[Group]:
    """The groups to decode in from now on; the present ones where nothing is worth its cost.

    left: steps each row may still take. fits: whether there is memory for these groups; true of the present
    ones. The best division is taken if it pays and fits; else two groups at a time are put together while
    that does.
    """
    groups = list(present)
    wanted = best(lengths, cost)
    if _pays(groups, wanted, lengths, left, cost) and fits(wanted):
        return wanted
    while len(groups) > 1:
        joined = [
            [*(g for g in groups if g not in pair), pair[0] | pair[1]] for pair in combinations(groups, 2)
        ]
        paying = [option for option in joined if _pays(groups, option, lengths, left, cost) and fits(option)]
        if not paying:
            break
        groups = min(paying, key=lambda option: cost.of(option, lengths))
    return groups


def _pays(
    present: Sequence[Group], wanted: Sequence[Group], lengths: Sequence[int], left: Sequence[int], cost: Cost
) -> bool:
    before, after = set(present) - set(wanted), set(wanted) - set(present)
    if not after:
        return False
    now = cost.of(before, lengths)
    saved = now - cost.of(after, lengths)
    steps = min(HORIZON, max(left[row] for group in after for row in group))
    return saved > WORTH * now and saved * steps > cost.moving(after, lengths)
