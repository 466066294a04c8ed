"""What a process takes: the proportional set size on Linux, at a bounded cost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from appliance.host.proportional import COST, ProportionalSize
from appliance.supervisor.footprint import footprint
from tests.host.trees import MIB, ROLLUP, STATUS, write

GROWING = Path(__file__).parent / "growing.py"
LIMIT_S = 60.0
KIB = 1024


class Recorded:
    """One process whose figures a test sets, a clock, and a count of the full readings."""

    def __init__(self, root: Path) -> None:
        self.root, self.now, self.walks = root, 100.0, 0
        self.holds = False  # a walk begins and does not end
        self.held: Callable[[], None] = lambda: None
        self.size = ProportionalSize(str(root), self._clock, beside=self._walk)
        (root / "proc/42").mkdir(parents=True)

    def _clock(self) -> float:
        return self.now

    def _walk(self, walk: Callable[[], None]) -> None:
        """At once, not in a thread."""
        self.walks += 1
        if self.holds:
            self.held = walk
        else:
            walk()

    def set(self, *, anon: int, shared: int = 0, pss: int | None = None) -> None:
        """In KiB. pss None: the kernel has no smaps_rollup."""
        status = STATUS.format(rss=anon + shared + 30720, anon=anon, shmem=shared)
        write(self.root, {"proc/42/status": status})
        if pss is not None:
            rollup = ROLLUP.format(rss=anon + 30720, pss=pss, anon=anon)
            write(self.root, {"proc/42/smaps_rollup": rollup})


def test_pages_shared_with_others_count_in_part(tmp_path: Path) -> None:
    there = Recorded(tmp_path)
    there.set(anon=100_000, pss=104_096)
    assert there.size(42) == 104_096 * KIB


def test_between_two_full_readings_growth_shows_at_once(tmp_path: Path) -> None:
    there = Recorded(tmp_path)
    there.set(anon=100_000, pss=104_096)
    there.size(42)
    there.set(anon=300_000, pss=1)  # what a full reading would say is not looked at yet
    there.now += 0.9
    assert there.size(42) == 304_096 * KIB
    there.set(anon=50_000, shared=1_000, pss=1)
    assert there.size(42) == 55_096 * KIB


def test_a_change_in_what_is_shared_shows_at_the_next_full_reading(tmp_path: Path) -> None:
    there = Recorded(tmp_path)
    there.set(anon=100_000, pss=104_096)
    there.size(42)
    there.set(anon=100_000, pss=130_720)  # the others that shared it are gone
    there.now += 1.1
    assert there.size(42) == 130_720 * KIB


def test_walks_through_a_big_process_are_seldom_and_hold_up_nobody(tmp_path: Path) -> None:
    there = Recorded(tmp_path)
    there.holds = True
    there.set(anon=100_000, pss=104_096)
    assert there.size(42) == 130_720 * KIB  # all that is resident, for as long as the walk takes
    there.now += 5.0
    assert there.size(42) == 130_720 * KIB
    assert there.walks == 1
    with_cost(there, 0.4)
    assert there.size(42) == 104_096 * KIB
    there.now += 0.3 / COST
    there.size(42)
    assert there.walks == 1
    there.now += 0.2 / COST
    there.size(42)
    assert there.walks == 2


def with_cost(there: Recorded, seconds: float) -> None:
    """End the walk that is held, which took so long."""
    before = there.now
    ticks = iter([before, before + seconds])
    there.size._clock = lambda: next(ticks)
    there.held()
    there.size._clock = there._clock
    there.now += seconds


def test_one_walk_at_a_time(tmp_path: Path) -> None:
    there = Recorded(tmp_path)
    there.holds = True
    there.set(anon=100_000, pss=104_096)
    there.size(42)
    write(tmp_path, {"proc/43/status": STATUS.format(rss=9, anon=9, shmem=0)})
    there.size(43)
    assert there.walks == 1
    there.held()
    there.size(43)
    assert there.walks == 2


def test_a_process_that_ends_during_its_walk_is_not_remembered(tmp_path: Path) -> None:
    there = Recorded(tmp_path)
    there.holds = True
    there.set(anon=100_000, pss=104_096)
    there.size(42)
    shutil.rmtree(tmp_path / "proc/42")
    there.held()
    assert (there.size(42), there.size._last) == (0, {})


def test_a_kernel_without_the_figure_gives_all_that_is_resident(tmp_path: Path) -> None:
    there = Recorded(tmp_path)
    there.set(anon=100_000, shared=500)
    assert there.size(42) == (100_000 + 500 + 30_720) * KIB


def test_a_process_that_is_gone_has_nothing_and_is_forgotten(tmp_path: Path) -> None:
    there = Recorded(tmp_path)
    there.set(anon=100_000, pss=104_096)
    there.size(42)
    write(tmp_path, {"proc/42/status": "Name:\tpython3\nState:\tZ (zombie)\n"})
    assert there.size(42) == 0
    there.set(anon=7, pss=9)  # another one under the same number
    assert there.size(42) == 9 * KIB


# --- real processes -----------------------------------------------------------------------------------


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-I", str(GROWING), str(tmp_path)])
    yield child
    child.kill()
    child.wait()


def ask(folder: Path, child: subprocess.Popen[bytes], wish: str) -> None:
    """Comes back when it has done so."""
    (folder / wish).touch()
    end = time.monotonic() + LIMIT_S
    while (folder / wish).exists():
        assert child.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)


def settled(size: Callable[[int], int], pid: int) -> int:
    """The figure after the first walk, which leaves out what is shared with this process."""
    if not psutil.LINUX:
        return size(pid)
    resident = psutil.Process(pid).memory_info().rss
    end = time.monotonic() + LIMIT_S
    while (found := size(pid)) >= resident:
        assert time.monotonic() < end
        time.sleep(0.005)
    return found


def test_what_a_process_allocates_is_in_the_next_reading(
    tmp_path: Path, growing: subprocess.Popen[bytes]
) -> None:
    ask(tmp_path, growing, "take-1")  # its interpreter is up
    before = settled(footprint, growing.pid)
    ask(tmp_path, growing, "take-200")
    grown = footprint(growing.pid) - before
    assert abs(grown - 200 * MIB) < 10 * MIB
    ask(tmp_path, growing, "drop")
    assert abs(footprint(growing.pid) - before) < 10 * MIB
    growing.kill()
    growing.wait()
    assert footprint(growing.pid) == 0


@pytest.mark.skipif(not psutil.LINUX, reason="there is no proportional set size here")
def test_the_corrected_figure_is_what_a_full_reading_says(
    tmp_path: Path, growing: subprocess.Popen[bytes]
) -> None:
    """psutil reads the whole of smaps for it."""
    ask(tmp_path, growing, "take-1")
    size = ProportionalSize()
    settled(size, growing.pid)
    ask(tmp_path, growing, "take-64")
    full = psutil.Process(growing.pid).memory_full_info().pss
    assert abs(size(growing.pid) - full) < 4 * MIB
