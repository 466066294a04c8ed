"""Rows are divided into batches so that a step of all is cheapest, and move only where it pays."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from appliance.engine.groups import COPY, HORIZON, UNMEASURED, Cost, Group, best, regroup

COST = Cost(fixed=5e-3, per_token=1e-6)
PLENTY = 10**6  # steps still to come


def divisions(rows: Sequence[int]) -> Iterator[list[Group]]:
    """All of them."""
    if not rows:
        yield []
        return
    head, *rest = rows
    for division in divisions(rest):
        yield [frozenset([head]), *division]
        for index, group in enumerate(division):
            yield [*division[:index], group | {head}, *division[index + 1 :]]


def whole(groups: Sequence[Group], rows: int) -> bool:
    return sorted(row for group in groups for row in group) == list(range(rows))


@pytest.mark.parametrize("seed", range(30))
def test_the_best_division_is_the_best_of_all(seed: int) -> None:
    chance = random.Random(seed)
    lengths = [int(chance.expovariate(1 / 2000)) + 1 for _ in range(chance.randint(1, 7))]
    cost = Cost(fixed=10 ** chance.uniform(-4, -1), per_token=10 ** chance.uniform(-7, -5))
    found = best(lengths, cost)
    assert whole(found, len(lengths))
    cheapest = min(cost.of(division, lengths) for division in divisions(range(len(lengths))))
    assert cost.of(found, lengths) == pytest.approx(cheapest)


def test_one_long_row_beside_short_ones_gets_a_batch_of_its_own() -> None:
    assert set(best([40] * 7 + [8000], COST)) == {frozenset(range(7)), frozenset([7])}


def test_rows_of_one_length_stay_together_and_so_do_all_where_nothing_was_measured() -> None:
    assert best([300] * 16, COST) == [frozenset(range(16))]
    assert best([1, 8000, 20], UNMEASURED) == [frozenset(range(3))]


def test_a_new_row_joins_those_of_its_length() -> None:
    present = [frozenset(range(7)), frozenset([7]), frozenset([8])]
    groups = regroup(present, [40] * 7 + [8000, 50], [PLENTY] * 9, COST)
    assert set(groups) == {frozenset([*range(7), 8]), frozenset([7])}


def test_what_saves_less_than_its_copy_costs_is_left() -> None:
    lengths, present = [30000, 30000], [frozenset([0]), frozenset([1])]
    cost = Cost(fixed=5e-3, per_token=1e-6)
    copy = COPY * cost.per_token * 60000
    enough = int(copy / cost.fixed) + 1
    assert enough < HORIZON
    assert regroup(present, lengths, [enough] * 2, cost) == [frozenset([0, 1])]
    assert regroup(present, lengths, [enough - 2] * 2, cost) == present


def test_what_does_not_fit_is_not_done() -> None:
    present = [frozenset([0]), frozenset([1]), frozenset([2])]
    assert regroup(present, [50] * 3, [PLENTY] * 3, COST, lambda groups: False) == present
    two = regroup(present, [50] * 3, [PLENTY] * 3, COST, lambda groups: max(map(len, groups)) <= 2)
    assert sorted(map(len, two)) == [1, 2]
    assert whole(two, 3)


@pytest.mark.parametrize("seed", range(20))
def test_rows_never_move_back_and_forth(seed: int) -> None:
    """While nobody comes or goes, a second look changes nothing, now or any number of steps later."""
    chance = random.Random(seed)
    rows = chance.randint(2, 12)
    lengths = [int(chance.expovariate(1 / 1500)) + 1 for _ in range(rows)]
    left = [chance.randint(1, 2000) for _ in range(rows)]
    groups: list[Group] = [frozenset([row]) for row in range(rows)]
    moves = []
    for step in range(0, 1000, 50):
        now = [length + step for length in lengths]
        wanted = regroup(groups, now, [max(1, steps - step) for steps in left], COST)
        assert whole(wanted, rows)
        if set(wanted) != set(groups):
            moves.append(step)
            assert COST.of(wanted, now) < COST.of(groups, now)
        groups = wanted
    assert set(moves) <= {0}


@pytest.mark.parametrize("seed", range(20))
def test_coming_and_going_never_leaves_a_step_much_dearer_than_the_best(seed: int) -> None:
    """Long answers ahead, so that copying always pays: what is left to win is one batch's fixed cost."""
    chance = random.Random(seed)
    lengths: list[int] = []
    groups: list[Group] = []
    for _ in range(60):
        if lengths and chance.random() < 0.4:
            gone = chance.randrange(len(lengths))
            lengths.pop(gone)
            kept = [frozenset(row - (row > gone) for row in group if row != gone) for group in groups]
            groups = [group for group in kept if group]
        else:
            lengths.append(chance.choice([20, 40, 300, 2500, 9000]))
            groups = [*groups, frozenset([len(lengths) - 1])]
        groups = regroup(groups, lengths, [PLENTY] * len(lengths), COST)
        cheapest = COST.of(best(lengths, COST), lengths)
        assert COST.of(groups, lengths) <= cheapest + COST.fixed + 0.03 * cheapest
