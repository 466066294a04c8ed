"""Slices: bounded, fair, and nothing is computed twice or forgotten."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine.encoders.tokens import Item
from appliance.engine.encoders.work import ALIKE, Job, Work

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=40)


def job(number: int, lengths: list[int], caller: str = "") -> Job:
    return Job(number, caller, [Item(np.zeros(length, dtype=np.int32)) for length in lengths], width=1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), LENGTHS), min_size=1, max_size=6), st.integers(1, 2048))
def test_every_input_is_computed_once_in_slices_that_fit(
    asked: list[tuple[str, list[int]]], budget: int
) -> None:
    work = Work()
    jobs = [job(number, lengths, caller) for number, (caller, lengths) in enumerate(asked)]
    for one in jobs:
        work.add(one)
    seen: set[tuple[int, int]] = set()
    while len(work):
        part = work.next(budget)
        sizes = [len(item) for item in part.items]
        assert part.rows
        assert len(sizes) == 1 or len(sizes) * max(sizes) <= budget
        assert min(sizes) >= ALIKE * max(sizes)
        for owner, index in part.rows:
            assert (owner.number, index) not in seen
            seen.add((owner.number, index))
            owner.put(index, np.array([len(owner.items[index])], dtype=np.float32))
        for owner in part.jobs:
            if not owner.missing:
                work.drop(owner)
    assert len(seen) == sum(len(lengths) for _, lengths in asked)
    for one in jobs:
        assert one.found[:, 0].tolist() == [len(item) for item in one.items]


def test_a_newcomer_is_next_and_does_not_wait_for_a_whole_batch() -> None:
    work = Work()
    work.add(job(1, [100] * 50, "a"))
    assert {owner.number for owner in work.next(500).jobs} == {1}
    work.add(job(2, [10], "b"))
    assert (2, 0) in [(owner.number, index) for owner, index in work.next(500).rows]


def test_questions_of_several_callers_share_a_slice() -> None:
    work = Work()
    for number in range(8):
        work.add(job(number, [20], str(number)))
    assert len(work.next(2048).rows) == 8


def test_what_was_taken_back_is_not_computed() -> None:
    work = Work()
    work.add(job(1, [10] * 4))
    work.add(job(2, [10]))
    assert work.take_back(1)
    assert not work.take_back(1)
    assert {owner.number for owner in work.next(100).jobs} == {2}
