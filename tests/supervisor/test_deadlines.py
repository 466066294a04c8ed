"""When an engine counts as hung, on a virtual clock."""

from __future__ import annotations

import pytest

from appliance.supervisor.deadlines import Deadlines, Watch
from appliance.wire import Beat, Stage

LOOK = 0.5


class Clock:
    """An engine that beats (or not) under a watch that looks twice a second."""

    def __init__(self, deadlines: Deadlines | None = None) -> None:
        self.watch = Watch(deadlines or Deadlines(look=LOOK))
        self.now = 100.0
        self.frames = 0
        self.steps = 0
        self.look()

    def beat(self, stage: Stage, progress: int = 0, rows: int = 0, waiting: int = 0) -> None:
        self.frames += 1
        self.watch.beat(Beat(stage=stage, stage_s=0.0, progress=progress, rows=rows, waiting=waiting))

    def look(self, *, unanswered: bool = False) -> str | None:
        return self.watch.look(self.now, self.frames, self.steps, unanswered)

    def until_hung(
        self, stage: Stage | None, *, most: float = 1000.0, unanswered: bool = False
    ) -> float | None:
        """Seconds until the verdict, beating in one stage without progress; stage None: not beating."""
        began = self.now
        while self.now - began < most:
            self.now += LOOK
            if stage is not None:
                self.beat(stage)
            if self.look(unanswered=unanswered) is not None:
                return self.now - began
        return None


@pytest.mark.parametrize(
    ("stage", "limit"), [("start", 60), ("load", 120), ("compile", 300), ("prefill", 120), ("decode", 30)]
)
def test_each_stage_may_go_without_progress_for_its_own_time(stage: Stage, limit: float) -> None:
    clock = Clock()
    clock.beat(stage)
    hung = clock.until_hung(stage)
    assert hung is not None
    assert limit < hung <= limit + 3 * LOOK


def test_an_idle_engine_may_be_idle_for_ever() -> None:
    assert Clock().until_hung("idle", most=100_000) is None


def test_progress_starts_the_time_anew() -> None:
    clock = Clock()
    for progress in range(1000):
        clock.now += 20.0 if progress % 2 else LOOK
        clock.beat("decode", progress)
        assert clock.look() is None


def test_steps_are_progress_too() -> None:
    clock = Clock()
    for _ in range(1000):
        clock.now += LOOK
        clock.steps += 1
        clock.beat("decode", 7)
        assert clock.look() is None


def test_work_after_a_long_idle_time_gets_its_whole_deadline() -> None:
    clock = Clock()
    assert clock.until_hung("idle", most=600) is None
    hung = clock.until_hung("decode")
    assert hung is not None
    assert hung > 30


def test_silence_is_noticed_whatever_the_stage() -> None:
    clock = Clock()
    clock.beat("idle")
    clock.look()
    hung = clock.until_hung(None)
    assert hung is not None
    assert 5 < hung <= 5 + 3 * LOOK


def test_an_interpreter_that_starts_may_be_silent_for_longer() -> None:
    clock = Clock()
    clock.beat("start")
    clock.look()
    hung = clock.until_hung(None)
    assert hung is not None
    assert 20 < hung <= 20 + 3 * LOOK


def test_a_parent_that_was_stopped_does_not_blame_the_engine() -> None:
    clock = Clock()
    clock.beat("decode")
    clock.look()
    for _ in range(3):
        clock.now += 3600.0  # a laptop lid, SIGSTOP, or a loop that was busy
        assert clock.look() is None
        clock.beat("decode")


def test_one_suspicion_is_not_enough() -> None:
    clock = Clock(Deadlines(silence=LOOK, look=LOOK))
    clock.beat("idle")
    clock.look()
    clock.now += 2 * LOOK
    assert clock.look() is None  # suspicious; frames may lie unread
    clock.beat("idle")
    clock.now += LOOK
    assert clock.look() is None
    assert clock.until_hung(None) is not None


def test_requests_that_wait_for_memory_while_one_runs_are_no_hang() -> None:
    """One long chunk of prompt, which shows no progress, while others lie unaccepted behind it."""
    clock = Clock(Deadlines(look=LOOK, prefill=10_000))
    for _ in range(2000):
        clock.now += LOOK
        clock.beat("prefill", 7, rows=1, waiting=3)
        assert clock.look(unanswered=True) is None


def test_requests_that_wait_while_nothing_runs_are_a_hang() -> None:
    clock = Clock()
    for _ in range(1000):
        clock.now += LOOK
        clock.beat("idle", waiting=3)
        if clock.look(unanswered=True) is not None:
            break
    assert 120 < clock.now - 100.0 <= 120 + 3 * LOOK


def test_a_request_that_nothing_answers_is_a_hang() -> None:
    clock = Clock()
    hung = clock.until_hung("idle", unanswered=True)
    assert hung is not None
    assert 120 < hung <= 120 + 3 * LOOK


def test_age_counts_only_time_that_was_seen_to_pass() -> None:
    clock = Clock()
    clock.now += 3600
    clock.look()
    clock.now += LOOK
    clock.look()
    assert clock.watch.age == pytest.approx(3 * LOOK)
