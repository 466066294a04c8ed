"""When a difference between two runs counts."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.benching.compare import compared, mann_whitney, sign_test


def by_counting(a: list[float], b: list[float]) -> float:
    """The same from its definition: every order of the values, for values that all differ."""

    def wins(of: tuple[float, ...], others: list[float]) -> int:
        return sum(x > y for x in of for y in others)

    def apart(count: int) -> int:
        return min(count, len(a) * len(b) - count)

    everything = [*a, *b]
    seen = apart(wins(tuple(a), b))
    orders = list(combinations(everything, len(a)))
    extreme = sum(apart(wins(c, [v for v in everything if v not in c])) <= seen for c in orders)
    return extreme / len(orders)


@given(st.lists(st.integers(0, 99), min_size=2, max_size=9, unique=True), st.data())
def test_the_chance_is_that_of_counting_every_order(values: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(values) - 1))
    a, b = [float(v) for v in values[:cut]], [float(v) for v in values[cut:]]
    assert mann_whitney(a, b) == pytest.approx(min(1.0, by_counting(a, b)))
    assert mann_whitney(a, b) == mann_whitney(b, a)


def test_three_rounds_can_never_count_four_can_when_they_do_not_overlap() -> None:
    assert mann_whitney([1, 2, 3], [7, 8, 9]) == pytest.approx(0.1)
    assert mann_whitney([1, 2, 3, 4], [7, 8, 9, 10]) == pytest.approx(2 / 70)
    assert mann_whitney([1, 2, 3, 8], [7, 9, 10, 11]) > 0.05
    assert mann_whitney([5, 5, 5, 5], [5, 5, 5, 5]) == 1.0
    assert mann_whitney([], [1.0]) == 1.0


def test_cells_count_when_a_fair_coin_would_not_fall_so() -> None:
    assert sign_test(0, 0) == sign_test(3, 3) == 1.0
    assert sign_test(5, 0) > 0.05 > sign_test(6, 0) == 2 / 64
    assert sign_test(7, 1) > 0.05 > sign_test(8, 1)


def run(values: list[float], passed: list[bool], **changes: Any) -> dict[str, Any]:
    cells = [{"name": f"json/{n}", "passed": [p, p], "why": None} for n, p in enumerate(passed)]
    ordered = sorted(values)
    figure = {
        "name": "long_ttft",
        "unit": "ms",
        "better": "lower",
        "values": values,
        "median": ordered[len(ordered) // 2],
    }
    return {
        "at": "2026-01-01T00:00:00+00:00",
        "kind": "quick",
        "model": "demo",
        "appliance": {"version": "1"},
        "cells": "c",
        "figures": [figure],
        "quality": [{"area": "json", "passed": 2 * sum(passed), "asked": 2 * len(passed), "cells": cells}],
        **changes,
    }  # fmt: skip


ONE = [{"path": "models.demo.kv_bits", "before": None, "after": 8}]


def test_a_time_that_fell_is_better_and_one_cell_of_eight_is_noise_but_named() -> None:
    before, after = run([9, 10, 11, 12], [True] * 8), run([1, 2, 3, 4], [True] * 7 + [False])
    found = compared(before, after, ONE)
    assert found["notes"] == []
    (figure,) = found["figures"]
    assert (figure["verdict"], figure["before"], figure["after"]) == ("better", 11, 3)
    assert figure["change"] == pytest.approx(-0.7273)
    (area,) = found["quality"]
    assert area["verdict"] == "noise"
    assert area["cells"] == [{"name": "json/7", "before": 1.0, "after": 0.0}]
    assert compared(after, before, ONE)["figures"][0]["verdict"] == "worse"


def test_many_cells_in_one_direction_are_no_noise() -> None:
    found = compared(run([1], [True] * 8), run([1], [True, True] + [False] * 6), ONE)
    assert found["quality"][0]["verdict"] == "worse"
    assert found["figures"][0]["verdict"] == "noise"


def test_what_spoils_a_comparison_is_said() -> None:
    two = [*ONE, {"path": "models.demo.concurrency", "before": 8, "after": 4}]
    other = run([1], [True], kind="full", model="mini", appliance={"version": "2"}, cells="d")
    found = compared(run([1], [True]), other, two)
    said = " / ".join(found["notes"])
    for word in (
        "2 settings differ",
        "another kind of run",
        "another model",
        "another version",
        "other cells",
    ):
        assert word in said
    assert found["quality"] == []
    assert compared(run([1], [True]), run([1], [True]), [])["notes"][0].startswith("no setting differs")
