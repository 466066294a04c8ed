"""What beats add up to, on a virtual clock."""

from __future__ import annotations

import pytest

from appliance.supervisor.vitals import Vitals
from appliance.wire import Beat


def beat(busy: float, waiting: int = 0) -> Beat:
    return Beat(
        stage="decode", stage_s=0, progress=0, waiting=waiting, busy_s=busy, active_bytes=2, cache_bytes=3
    )


def test_memory_and_waiting_are_the_newest_beats() -> None:
    vitals = Vitals()
    vitals.beat(beat(0.0, waiting=1), 10.0)
    vitals.beat(beat(0.5, waiting=7), 10.5)
    assert (vitals.mlx_bytes, vitals.waiting) == (5, 7)
    vitals.gone()
    assert (vitals.mlx_bytes, vitals.waiting, vitals.saturation) == (0, 0, None)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_saturation_is_the_share_of_the_last_seconds_that_were_busy(share: float) -> None:
    vitals = Vitals()
    for half in range(40):
        vitals.beat(beat(100.0 + half * 0.5 * share), half * 0.5)
    assert vitals.saturation == pytest.approx(share)


def test_what_was_long_ago_does_not_count() -> None:
    vitals = Vitals()
    busy = 0.0
    for half in range(60):
        busy += 0.5 if half < 30 else 0.0
        vitals.beat(beat(busy), half * 0.5)
    assert vitals.saturation == 0.0


def test_too_few_beats_tell_nothing() -> None:
    vitals = Vitals()
    assert vitals.saturation is None
    vitals.beat(beat(0.0), 0.0)
    vitals.beat(beat(0.5), 0.5)
    assert vitals.saturation is None
    vitals.beat(beat(1.0), 60.0)  # the parent was stopped: nothing is left to compare with
    assert vitals.saturation is None
