"""The quota holds over all models, and what was used least recently gives way first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.prompt_cache import folder, quota
from appliance.prompt_cache.folder import Found
from appliance.prompt_cache.format import Record
from appliance.prompt_cache.register import Gone, Written
from tests.prompt_cache.making import Shop, path_of, record, shop, text

OTHER = "fedcba9876543210" * 2
SIZE = 6656  # bytes of one file of these tests
ROOM = 10 * SIZE + 100


class Clock:
    """Time that stands still between calls of `pass_by`."""

    def __init__(self, now: float = 2_000_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float = 1.0) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def disk(tmp_path: Path, clock: Clock) -> Iterator[Shop]:
    with shop(tmp_path / "cache", quota=ROOM, clock=clock) as disk:
        yield disk


def total(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*.safetensors"))


def test_the_files_of_these_tests_have_the_size_they_reckon_with(disk: Shop) -> None:
    disk.put(record())
    assert path_of(disk.root, record()).stat().st_size == SIZE


def test_the_quota_is_never_exceeded(disk: Shop, clock: Clock) -> None:
    for first in range(0, 20 * 256, 256):
        disk.put(record(first=first))
        clock.pass_by()
        assert total(disk.root) <= ROOM
        assert disk.store.use().bytes == total(disk.root)
    assert len(list(disk.root.rglob("*.safetensors"))) == 10


def test_the_least_recently_used_text_gives_way_its_end_first(disk: Shop, clock: Clock) -> None:
    old, new = text(5), text(5, first=10_000)
    disk.put(*old)
    clock.pass_by()
    disk.put(*new)
    clock.pass_by()
    disk.store.touch([made.key for made in old])
    clock.pass_by()
    disk.put(*text(2, first=20_000))
    assert disk.has(*old) == [True] * 5
    assert disk.has(*new) == [True] * 3 + [False] * 2
    assert [n for n in disk.seen if isinstance(n, Gone)] == [
        Gone(new[4].key, "evicted"),
        Gone(new[3].key, "evicted"),
    ]


def test_a_child_never_looks_newer_than_its_parent(disk: Shop, clock: Clock) -> None:
    made = []
    for one in text(6):
        disk.put(one)
        made.append(one)
        clock.pass_by(5)
    times = [path_of(disk.root, one).stat().st_mtime_ns for one in made]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == 6
    disk.store.touch([one.key for one in made[:3]])
    disk.settle()
    times = [path_of(disk.root, one).stat().st_mtime_ns for one in made]
    assert times == sorted(times, reverse=True)
    assert times[2] > times[3] + 10**9


def test_recency_survives_a_restart(disk: Shop, clock: Clock) -> None:
    old, new = text(5), text(5, first=10_000)
    disk.put(*old)
    clock.pass_by()
    disk.put(*new)
    clock.pass_by()
    disk.store.touch([made.key for made in old])
    disk.settle()
    disk.store.close(5)
    with shop(disk.root, quota=ROOM, clock=clock) as later:
        clock.pass_by()
        later.put(record(first=77))
        assert later.has(*old, *new) == [True] * 9 + [False]


def test_a_smaller_quota_is_kept_at_once(disk: Shop) -> None:
    made = text(8)
    disk.put(*made)
    disk.store.configure(3 * SIZE)
    disk.until(lambda: disk.store.use().bytes == 3 * SIZE)
    assert disk.has(*made) == [True] * 3 + [False] * 5
    assert total(disk.root) == 3 * SIZE


def test_what_is_larger_than_the_quota_is_refused(disk: Shop) -> None:
    disk.store.configure(3000)
    with pytest.raises(AssertionError):
        disk.put(record())
    assert not disk.has(record())[0]


# --- clocks -------------------------------------------------------------------------------------------


def test_files_from_the_future_count_as_used_now_and_age_from_then_on(tmp_path: Path, clock: Clock) -> None:
    made = text(10)
    with shop(tmp_path / "cache", quota=ROOM, clock=clock) as first:
        first.put(*made)
    for number, one in enumerate(made[:5]):
        later = int((clock.now + 10**8 - number) * 1e9)
        os.utime(path_of(tmp_path / "cache", one), ns=(later, later))
    clock.pass_by()
    with shop(tmp_path / "cache", quota=ROOM, clock=clock) as disk:
        disk.store.scan()
        times = [path_of(disk.root, one).stat().st_mtime_ns for one in made]
        assert max(times) <= clock.now * 1e9
        assert times == sorted(times, reverse=True)
        assert len(set(times)) == 10
        clock.pass_by()
        disk.put(*text(8, first=10_000))
        assert disk.has(*made) == [True] * 2 + [False] * 8


def test_a_clock_set_back_does_not_make_new_files_the_oldest(disk: Shop, clock: Clock) -> None:
    old, new = text(5), text(4, first=10_000)
    disk.put(*old)
    clock.pass_by(-86_400 * 365)
    disk.put(*new)
    disk.settle()
    clock.pass_by()
    disk.store.touch([one.key for one in new])
    disk.settle()
    clock.pass_by()
    disk.put(*text(3, first=20_000))
    assert disk.has(*old, *new) == [True] * 3 + [False] * 2 + [True] * 4


def test_times_after_now_are_put_right_in_their_order() -> None:
    files = [Found(str(n), "", None, 1, used, False) for n, used in enumerate([5, 900, 700, 800, 10])]
    clamped = {file.path: used for file, used in quota.clamp(files, 10)}
    assert clamped["0"] == 5
    assert clamped["4"] == 10
    assert 10 == clamped["1"] > clamped["3"] > clamped["2"]


# --- several engines ----------------------------------------------------------------------------------


def test_another_models_files_give_way_too(tmp_path: Path, clock: Clock) -> None:
    theirs = text(8, namespace=OTHER)
    with shop(tmp_path / "cache", quota=ROOM, clock=clock, namespace=OTHER) as other:
        other.put(*theirs)
    clock.pass_by()
    with shop(tmp_path / "cache", quota=ROOM, clock=clock) as disk:
        disk.put(*text(5))
        assert total(disk.root) <= ROOM
        assert [path_of(disk.root, one, OTHER).exists() for one in theirs] == [True] * 5 + [False] * 3
        assert disk.store.use().bytes == 5 * SIZE
        assert disk.store.use().all_bytes == 10 * SIZE
        assert not [n for n in disk.news() if isinstance(n, Gone)]


def test_what_another_engine_used_since_we_counted_is_not_taken_for_old(tmp_path: Path, clock: Clock) -> None:
    theirs = text(5, namespace=OTHER)
    with shop(tmp_path / "cache", quota=ROOM, clock=clock, namespace=OTHER) as other:
        other.put(*theirs)
        clock.pass_by()
        with shop(tmp_path / "cache", quota=ROOM, clock=clock) as disk:
            mine = text(5)
            disk.put(*mine)
            clock.pass_by()
            other.store.touch([one.key for one in theirs])
            other.settle()
            clock.pass_by()
            disk.put(record(first=5))
            assert disk.has(*mine) == [True] * 4 + [False]
            assert other.has(*theirs) == [True] * 5


def test_a_file_that_another_engine_evicted_is_a_miss(tmp_path: Path, clock: Clock) -> None:
    mine = text(10)
    with shop(tmp_path / "cache", quota=ROOM, clock=clock) as disk:
        disk.put(*mine)
        clock.pass_by()
        with shop(tmp_path / "cache", quota=ROOM, clock=clock, namespace=OTHER) as other:
            other.put(*text(2, namespace=OTHER))
        found = disk.read([one.key for one in mine])
        assert [found[one.key] is not None for one in mine] == [True] * 8 + [False] * 2
        assert disk.news()[-2:] == [Gone(one.key, "missing") for one in mine[8:]]


CHURN = """
import sys
from pathlib import Path
from tests.prompt_cache.making import Shop, record
root, namespace, quota, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
shop = Shop(root, quota, namespace)
for number in range(150):
    made = record(first=1000 * (number + seed), namespace=namespace)
    shop.put(made)
    shop.store.touch([made.key])
    found = shop.read([made.key])[made.key]
    assert found is None or found.record == made
assert shop.store.use().state == "ready", shop.store.use()
assert shop.store.use().damaged == 0
shop.store.close(10)
"""


def test_two_processes_share_a_root_and_its_quota(tmp_path: Path) -> None:
    """Each counts for itself, and anew after a twentieth of the quota: so much they may exceed it by."""
    room = 40 * SIZE
    engines = [
        subprocess.Popen([sys.executable, "-c", CHURN, str(tmp_path / "cache"), namespace, str(room), seed])
        for namespace, seed in ((OTHER, "0"), (OTHER, "100"))
    ]
    assert [engine.wait(100) for engine in engines] == [0, 0]
    assert total(tmp_path / "cache") <= room * 1.2
    with shop(tmp_path / "cache", quota=room, namespace=OTHER) as disk:
        scanned: list[tuple[Record, int, float]] = disk.store.scan()
        assert len(scanned) == len(list(folder.walk(disk.root)))
        disk.put(record(first=9, namespace=OTHER))
        assert isinstance(disk.seen[-1], Written)
        assert total(disk.root) <= room
