"""Quantities carry units, and writing one down loses nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler import units
from reconciler.units import Share


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("60s", 60),
        ("30m", 1800),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("30d", 2_592_000),
        ("0s", 0),
    ],
)
def test_durations_are_read_as_seconds(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "30 m", "m", "30m1h", "5m5m", "-5s", "1:30", "30M", "0.1ms", "30m\n", "٣s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GiB", 20 * 2**30),
        ("500MB", 500_000_000),
        ("1.5GiB", 3 * 2**29),
        ("1B", 1),
        ("1KB", 1000),
        ("1TiB", 2**40),
    ],
)
def test_sizes_are_read_as_bytes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "20", "20gib", "20 GiB", "GiB", "-1B", "1PiB", "20GiB\n"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_size(text)


@pytest.mark.parametrize("text", ["", "85", "101%", "-1%", "85 %", "0.85"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_share(text)


@settings(deadline=None)
@given(st.integers(0, 10**12))
def test_durations_round_trip(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    written = units.format_duration(seconds)
    assert units.parse_duration(written) == seconds
    assert re.search(units.DURATION_PATTERN, written)


@settings(deadline=None)
@given(st.integers(0, 2**50))
def test_sizes_round_trip(size: int) -> None:
    written = units.format_size(size)
    assert units.parse_size(written) == size
    assert re.search(units.SIZE_PATTERN, written)


@settings(deadline=None)
@given(st.integers(0, 1_000_000))
def test_percentages_round_trip(ten_thousandths: int) -> None:
    share = units.parse_share(f"{ten_thousandths // 10_000}.{ten_thousandths % 10_000:04d}%")
    written = str(share)
    assert units.parse_share(written) == share
    assert re.search(units.SHARE_PATTERN, written)


def test_values_are_written_the_way_people_write_them() -> None:
    assert units.format_duration(5400.0) == "1h30m"
    assert units.format_size(512 * 2**20) == "512MiB"
    assert units.format_size(500_000_000) == "500MB"
    assert str(Share(0.999)) == "99.9%"
