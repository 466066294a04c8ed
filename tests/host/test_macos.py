"""macOS, at its boundary only: outputs as its commands print them, values laid out as its headers say.

None of this has run on a Mac.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial

import pytest

from appliance.host import macos_outputs as outputs
from appliance.host.beside import Refreshed
from appliance.host.commands import run
from appliance.host.macos import THERMAL, VM_STAT, MacHost
from reconciler.observed import MemoryObs

GIB, MIB = 2**30, 2**20
PAGE = 16384

# `vm_stat` of macOS 14 on Apple silicon.
VM_STAT_OUTPUT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                              313455.
Pages active:                           1603722.
Pages inactive:                         1571822.
Pages speculative:                        29817.
Pages throttled:                              0.
Pages wired down:                        261523.
Pages purgeable:                          35412.
"Translation faults":                 987654321.
Pages copy-on-write:                   41234567.
Pages zero filled:                    412345678.
Pages reactivated:                     12345678.
Pages purged:                           2345678.
File-backed pages:                       912345.
Anonymous pages:                        2293016.
Pages stored in compressor:             1234567.
Pages occupied by compressor:            393216.
Decompressions:                        23456789.
Compressions:                          34567890.
Pageins:                               12345678.
Pageouts:                                 51234.
Swapins:                                1234567.
Swapouts:                               2345678.
"""
HEAVY = "com.apple.system.thermalpressurelevel 2\n"


def _int(value: int) -> bytes:
    return value.to_bytes(4, "little")


class Mac:
    """What a Mac of 128 GiB would answer."""

    def __init__(self) -> None:
        self.now = 50.0
        self.values: dict[str, bytes | None] = {
            "hw.memsize": (128 * GIB).to_bytes(8, "little"),
            "iogpu.wired_limit_mb": _int(0),
            "kern.memorystatus_vm_pressure_level": _int(1),
            "vm.swapusage": outputs.SWAP_USAGE.pack(4 * GIB, 3 * GIB, GIB, PAGE, 1),
        }
        self.printed: dict[Sequence[str], str | None] = {VM_STAT: VM_STAT_OUTPUT, THERMAL: HEAVY}
        self.host = MacHost(
            self.values.get, {7: b"\0" * 96}.get, self.printed.get, lambda: 40 * GIB, self.clock
        )

    def clock(self) -> float:
        return self.now

    def read(self, working_set: int = 0) -> MemoryObs:
        """A reading after the commands it begins have ended: the next would show what they said."""
        self.host.read(working_set)
        self.host._vm_stat.wait()
        self.host._thermal.wait()
        return self.host.read(working_set)


def test_a_quiet_mac() -> None:
    seen = Mac().read()
    assert (seen.total_bytes, seen.available_bytes, seen.source) == (128 * GIB, 40 * GIB, "physical memory")
    assert (seen.system, seen.system_why, seen.heat) == ("normal", "", "heavy")


@pytest.mark.parametrize(
    ("memory", "limit_mb", "working_set", "auto"),
    [
        (128, 122880, 100 * GIB, 120 * GIB),  # the operator's own limit wins
        (128, 65536, 0, 64 * GIB),
        (128, 0, 100 * GIB, 100 * GIB),  # as an engine reported it
        (128, 0, 0, 96 * GIB),  # until one has: an estimate
        (36, 0, 0, 24 * GIB),
        (24, None, 0, 16 * GIB),  # macOS before 13 has no iogpu
        (64, 2**20, 0, 64 * GIB),  # more than there is
    ],
)
def test_what_a_budget_of_auto_means(memory: int, limit_mb: int | None, working_set: int, auto: int) -> None:
    mac = Mac()
    mac.values["hw.memsize"] = (memory * GIB).to_bytes(8, "little")
    mac.values["iogpu.wired_limit_mb"] = None if limit_mb is None else _int(limit_mb)
    assert mac.read(working_set).auto_bytes == auto


@pytest.mark.parametrize(("value", "level"), [(1, "normal"), (2, "warning"), (4, "critical"), (3, "normal")])
def test_the_systems_own_pressure(value: int, level: str) -> None:
    mac = Mac()
    mac.values["kern.memorystatus_vm_pressure_level"] = _int(value)
    seen = mac.read()
    assert seen.system == level
    if level != "normal":
        assert seen.system_why == f"kern.memorystatus_vm_pressure_level says {level}"


def test_swapping_out_is_pressure_while_the_system_still_says_normal() -> None:
    mac = Mac()
    mac.read()
    more = 2345678 + 200 * MIB // PAGE
    mac.printed[VM_STAT] = VM_STAT_OUTPUT.replace("2345678.\n", f"{more}.\n")
    mac.now += 2.0
    seen = mac.read()
    assert seen.system == "warning"
    words = "100 MiB/s go out to swap, the compressor holds 6.0 GiB, 1.0 GiB of swap are in use"
    assert seen.system_why == words
    mac.now += 5.0
    assert mac.read().system == "normal"


def test_a_command_that_fails_leaves_the_last_figure_for_a_while_and_then_none() -> None:
    mac = Mac()
    assert mac.read().heat == "heavy"
    mac.printed[THERMAL] = None
    mac.now += 20.0
    assert mac.read().heat == "heavy"
    mac.now += 20.0
    assert mac.read().heat is None


@pytest.mark.parametrize(
    ("output", "heat"),
    [
        ("com.apple.system.thermalpressurelevel 0\n", "nominal"),
        ("com.apple.system.thermalpressurelevel 4\n", "sleeping"),
        ("com.apple.system.thermalpressurelevel 5\n", None),
        ("com.apple.system.thermalpressurelevel\n", None),
        ("notifyutil: no such name\n", None),
        ("", None),
    ],
)
def test_heat_in_the_systems_own_words(output: str, heat: str | None) -> None:
    assert outputs.heat(output) == heat


def test_a_process_is_charged_its_physical_footprint() -> None:
    assert outputs.RUSAGE.size == 96
    usage = outputs.RUSAGE.pack(1, 2, 3, 4, 5, 6, 7, 8_000, 9, 10)
    there = MacHost(usage={7: usage}.get)
    assert (there.footprint(7), there.footprint(8)) == (8_000, 0)


def test_values_of_another_size_than_documented_are_none() -> None:
    assert outputs.integer(b"\1\0\0") is None
    assert outputs.integer(_int(7)) == outputs.integer((7).to_bytes(8, "little")) == 7
    assert outputs.integer(b"\xff" * 4) is None
    assert outputs.swap_used(b"\0" * 31) is None
    assert outputs.paged_out(outputs.vm_stat("Pageouts: 7.\n")) is None  # no page size, so no bytes


def test_a_mac_that_answers_nothing_is_unknown_and_not_an_error() -> None:
    mac = Mac()
    mac.values.clear()
    mac.printed.clear()
    seen = mac.read()
    assert (seen.total_bytes, seen.auto_bytes, seen.system, seen.heat) == (0, 0, "normal", None)
    assert seen.source.startswith("unknown")


# --- commands, which run here as they do there --------------------------------------------------------


def test_a_commands_output_or_nothing() -> None:
    assert run(("/bin/echo", "out")) == "out\n"
    assert run(("/bin/sh", "-c", "echo half; exit 3")) is None
    assert run(("/no/such/command",)) is None


def test_a_slow_command_holds_up_nobody_and_is_not_started_twice() -> None:
    slow = (sys.executable, "-c", "import time; time.sleep(0.2); print('late')")
    here = Refreshed(partial(run, slow), 0.0, 60.0)
    began = time.monotonic()
    asked = 0
    while here.latest() is None:
        asked += 1
        first = here._running
        assert time.monotonic() - began < 60.0
        time.sleep(0.001)
        assert here._running is first
    assert asked > 1
    found = here.latest()
    assert found is not None
    assert found[1] == "late\n"
    here.wait()
