"""Linux, on recorded trees: a container's limit counts, and pressure is named with its figure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance import host
from appliance.host.linux import LinuxHost
from tests.host.trees import CALM, GIB, MIB, STALLED, TRIPS, VMSTAT, machine, write, zone

V2 = "sys/fs/cgroup"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_control_groups_it_is_physical_memory(tmp_path: Path) -> None:
    seen = LinuxHost(machine(tmp_path)).read()
    assert (seen.total_bytes, seen.available_bytes, seen.source) == (64 * GIB, 40 * GIB, "physical memory")
    assert seen.auto_bytes == 48 * GIB
    assert (seen.system, seen.system_why, seen.heat) == ("normal", "", None)


# --- control groups ---------------------------------------------------------------------------------


def test_the_smallest_limit_above_the_process_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/work/lmx.service\n",
        f"{V2}/work/lmx.service/memory.max": "max\n",
        f"{V2}/work/memory.max": f"{8 * GIB}\n",
        f"{V2}/work/memory.current": f"{6 * GIB}\n",
        f"{V2}/work/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}\nactive_file {MIB}\n",
        f"{V2}/cgroup.controllers": "memory\n",
    }
    seen = LinuxHost(machine(tmp_path, files)).read()
    assert seen.total_bytes == seen.auto_bytes == 8 * GIB
    assert seen.available_bytes == 4 * GIB + MIB  # page cache that the kernel gives back counts as free
    assert seen.source == f"cgroup ({tmp_path}/{V2}/work/memory.max)"


def test_version_1_inside_a_container_whose_path_is_not_mounted(tmp_path: Path) -> None:
    v1 = f"{V2}/memory"
    files = {
        "proc/self/cgroup": "5:cpu:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n",
        f"{v1}/memory.limit_in_bytes": f"{2 * GIB}\n",
        f"{v1}/memory.usage_in_bytes": f"{GIB}\n",
        f"{v1}/memory.stat": f"inactive_file {GIB}\ntotal_inactive_file 0\ntotal_active_file {MIB}\n",
    }
    seen = LinuxHost(machine(tmp_path, files)).read()
    assert (seen.total_bytes, seen.available_bytes) == (2 * GIB, GIB + MIB)


def test_no_limit_is_not_a_limit(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/\n0::/\n",
        f"{V2}/memory/memory.limit_in_bytes": "9223372036854771712\n",
        f"{V2}/memory.max": "max\n",
    }
    assert LinuxHost(machine(tmp_path, files)).read().source == "physical memory"


def test_a_group_over_its_limit_has_nothing_left_not_less_than_nothing(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        f"{V2}/memory.max": str(GIB),
        f"{V2}/memory.current": str(GIB + 4096),
    }
    seen = LinuxHost(machine(tmp_path, files)).read()
    assert seen.available_bytes == 0
    assert seen.system == "critical"
    assert f"0 MiB of 1.0 GiB left on control group {tmp_path}/{V2}" in seen.system_why


def test_a_limit_that_changes_counts_two_seconds_later(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": str(8 * GIB)}
    clock = Clock()
    there = LinuxHost(machine(tmp_path, files), clock)
    assert there.read().auto_bytes == 8 * GIB
    write(tmp_path, {f"{V2}/memory.max": str(4 * GIB)})
    clock.now += 2.0
    assert there.read().auto_bytes == 4 * GIB


def test_a_path_that_climbs_out_is_not_followed(tmp_path: Path) -> None:
    root = machine(tmp_path / "root", {"proc/self/cgroup": "0::/../../../outside\n"})
    write(tmp_path, {"outside/memory.max": "1\n"})
    assert LinuxHost(root).read().source == "physical memory"


# --- the system's own pressure ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "available", "level"),
    [
        (64, 40.0, "normal"),
        (64, 3.3, "normal"),
        (64, 3.1, "warning"),  # a twentieth
        (64, 1.2, "critical"),  # a fiftieth
        (512, 4.1, "normal"),  # four GiB are enough for any system
        (512, 3.9, "warning"),
        (8, 0.51, "normal"),
        (8, 0.49, "warning"),  # half a GiB
        (1, 0.13, "normal"),
        (1, 0.12, "warning"),  # an eighth of a small one
        (1, 0.04, "critical"),
    ],
)
def test_little_memory_left_is_pressure(tmp_path: Path, total: int, available: float, level: str) -> None:
    text = f"MemTotal: {total * GIB // 1024} kB\nMemAvailable: {int(available * GIB) // 1024} kB\n"
    seen = LinuxHost(machine(tmp_path, {"proc/meminfo": text})).read()
    assert seen.system == level
    assert ("left on the machine" in seen.system_why) == (level != "normal")


def test_tasks_that_wait_for_memory_are_pressure(tmp_path: Path) -> None:
    seen = LinuxHost(machine(tmp_path, {"proc/pressure/memory": STALLED})).read()
    assert seen.system == "warning"
    words = "/proc/pressure/memory: tasks waited for memory 31 % of the time, all of them 12 %"
    assert seen.system_why == words


def test_our_own_group_may_wait_while_the_machine_is_calm(tmp_path: Path) -> None:
    thrashing = CALM.replace("full avg10=0.00", "full avg10=61.00")
    files = {"proc/self/cgroup": "0::/lmx\n", f"{V2}/lmx/memory.pressure": thrashing}
    seen = LinuxHost(machine(tmp_path, files)).read()
    assert seen.system == "critical"
    assert f"{tmp_path}/{V2}/lmx/memory.pressure" in seen.system_why


def test_pages_that_go_out_to_swap_are_pressure(tmp_path: Path) -> None:
    """Two readings of /proc/vmstat, a second apart."""
    clock = Clock()
    there = LinuxHost(machine(tmp_path), clock)
    assert there.read().system == "normal"  # a counter alone tells no rate
    page = os.sysconf("SC_PAGE_SIZE")
    write(tmp_path, {"proc/vmstat": VMSTAT.format(pages=34567 + 50 * MIB // page)})
    clock.now += 1.0
    seen = there.read()
    assert (seen.system, seen.system_why) == ("warning", "50 MiB/s go out to swap")
    clock.now += 10.0
    assert there.read().system == "normal"


def test_all_that_presses_is_named_the_worst_first(tmp_path: Path) -> None:
    text = f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: 1024 kB\n"
    seen = LinuxHost(machine(tmp_path, {"proc/meminfo": text, "proc/pressure/memory": STALLED})).read()
    assert seen.system == "critical"
    assert seen.system_why.startswith("1 MiB of 64.0 GiB left on the machine; /proc/pressure/memory: ")


def hot(there: LinuxHost) -> str | None:
    """Heat is read in a thread: what the first reading after that says."""
    there.read()
    there._heat.wait()
    return there.read().heat


# --- heat -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "heat"),
    [
        (61_000, "nominal"),
        (89_999, "nominal"),
        (90_000, "moderate"),
        (95_000, "heavy"),
        (100_000, "trapping"),
        (105_000, "sleeping"),
        (-5_000, "nominal"),
        ("N/A", None),
    ],
)
def test_heat_is_told_by_the_trip_points(tmp_path: Path, temperature: int | str, heat: str | None) -> None:
    assert hot(LinuxHost(machine(tmp_path, zone(0, temperature)))) == heat


def test_the_hottest_zone_counts_each_against_its_own_trip_points(tmp_path: Path) -> None:
    files = {**zone(0, 89_000), **zone(1, 70_000, (("passive", 68_000), ("critical", 90_000)))}
    assert hot(LinuxHost(machine(tmp_path, files))) == "heavy"


@pytest.mark.parametrize(
    ("trips", "heat"),
    [
        ((("critical", 105_000),), "heavy"),  # it does not say when it slows down: ten degrees below
        ((("critical", 120_000),), "nominal"),
        ((("active", 40_000), ("critical", 120_000)), "nominal"),  # a fan turns
        ((("passive", 0), ("passive", -274_000), ("critical", 120_000)), "nominal"),  # switched off
        ((("active", 40_000),), None),
        ((), None),
    ],
)
def test_trip_points_that_say_nothing_about_heat_are_left_out(
    tmp_path: Path, trips: tuple[tuple[str, int], ...], heat: str | None
) -> None:
    assert hot(LinuxHost(machine(tmp_path, zone(0, 96_000, trips)))) == heat


def test_heat_is_read_again_after_a_while(tmp_path: Path) -> None:
    clock = Clock()
    there = LinuxHost(machine(tmp_path, zone(0, 61_000, TRIPS)), clock)
    assert hot(there) == "nominal"
    write(tmp_path, zone(0, 101_000, TRIPS))
    assert hot(there) == "nominal"
    clock.now += 5.0
    assert hot(there) == "trapping"
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").unlink()
    clock.now += 29.0
    assert hot(there) == "trapping"
    clock.now += 1.0
    assert hot(there) is None  # too old to be told


def test_this_machine_can_be_read() -> None:
    seen = host.platform().read()
    assert 0 < seen.available_bytes <= seen.total_bytes
    assert 0 < seen.auto_bytes <= seen.total_bytes
    assert seen.source
