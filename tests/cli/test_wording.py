"""How long and how much, in words for people."""

from __future__ import annotations

import pytest

from appliance.cli.wording import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (61, "1m1s"),
        (3605, "1h"),
        (11545, "3h12m"),
        (90000, "1d1h"),
        (86400 * 1103 + 1800, "1103d"),  # a day and minutes would be read as hours
    ],
)
def test_a_length_of_time_is_told_by_two_units_that_follow_each_other(seconds: float, words: str) -> None:
    assert duration(seconds) == words
