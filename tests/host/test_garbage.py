"""Whatever stands in the system's files and outputs: nothing raises, and nothing is made up."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from appliance.host import files, macos_outputs, thermal_zones
from appliance.host.control_groups import groups
from appliance.host.linux import LinuxHost, averages
from appliance.host.macos import THERMAL, VM_STAT, MacHost
from appliance.host.rate import Rate
from reconciler import names
from reconciler.observed import MemoryObs
from reconciler.readings import LEVELS
from tests.host.test_macos import HEAVY, VM_STAT_OUTPUT
from tests.host.trees import CALM, MEMINFO, ROLLUP, STATUS, VMSTAT, zone

PID = 4242
WELL = {
    "proc/meminfo": MEMINFO,
    "proc/vmstat": VMSTAT.format(pages=1),
    "proc/pressure/memory": CALM,
    "proc/self/cgroup": "0::/lmx\n4:memory:/lmx\n",
    "sys/fs/cgroup/lmx/memory.max": "1000000\n",
    "sys/fs/cgroup/lmx/memory.current": "1000\n",
    "sys/fs/cgroup/lmx/memory.stat": "inactive_file 10\n",
    "sys/fs/cgroup/lmx/memory.pressure": CALM,
    "sys/fs/cgroup/memory/lmx/memory.limit_in_bytes": "1000000\n",
    f"proc/{PID}/status": STATUS.format(rss=1, anon=1, shmem=1),
    f"proc/{PID}/smaps_rollup": ROLLUP.format(rss=1, pss=1, anon=1),
    **zone(0, 61_000),
}


def broken(text: str) -> st.SearchStrategy[bytes]:
    """Anything, or the real text with a piece cut out, replaced or repeated."""
    data = text.encode()
    cut = st.tuples(st.integers(0, len(data)), st.integers(0, len(data)), st.binary(max_size=30)).map(
        lambda c: data[: min(c[:2])] + c[2] + data[max(c[:2]) :]
    )
    signs = st.sampled_from(
        ["-1", "9" * 25, "1e9", "0x10", "\u0663", "NaN", "", "max", "9223372036854771712"]
    )
    swapped = signs.map(lambda sign: "".join(sign if c.isdigit() else c for c in text).encode())
    return st.one_of(st.binary(max_size=200), cut, swapped, st.just(data), st.just(data * 3))


@st.composite
def trees(draw: st.DrawFn) -> dict[str, bytes | None]:
    """Each file whole, broken, or absent."""
    return {
        name: draw(st.one_of(st.just(text.encode()), broken(text), st.none())) for name, text in WELL.items()
    }


def plausible(seen: MemoryObs) -> None:
    assert 0 <= seen.available_bytes <= seen.total_bytes
    assert 0 <= seen.auto_bytes <= seen.total_bytes
    assert seen.system in LEVELS
    assert (seen.system == "normal") == (seen.system_why == "")
    assert seen.heat is None or seen.heat in names.HEAT
    assert seen.source
    assert seen.total_bytes > 0 or seen.source.startswith("unknown")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(trees(), min_size=1, max_size=2))
def test_any_files_on_linux(recorded: list[dict[str, bytes | None]]) -> None:
    now = [0.0]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        there = LinuxHost(root, lambda: now[0])
        for tree in recorded:
            for name, data in tree.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                if data is not None:
                    path.write_bytes(data)
            there.read()
            there._heat.wait()
            plausible(there.read())
            assert there.footprint(PID) >= 0
            now[0] += 11.0


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.binary(max_size=40)
            for name in (
                "hw.memsize",
                "iogpu.wired_limit_mb",
                "kern.memorystatus_vm_pressure_level",
                "vm.swapusage",
            )
        },
    ),
    broken(VM_STAT_OUTPUT),
    broken(HEAVY),
    st.integers(-(2**70), 2**70),
)
def test_any_answers_on_macos(
    values: dict[str, bytes], vm_stat: bytes, thermal: bytes, available: int
) -> None:
    printed = {VM_STAT: vm_stat.decode("utf-8", "replace"), THERMAL: thermal.decode("utf-8", "replace")}
    now = [0.0]
    there = MacHost(values.get, lambda _: None, printed.get, lambda: available, lambda: now[0])
    for _ in range(2):
        there.read()
        there._vm_stat.wait()
        there._thermal.wait()
        plausible(there.read())
        now[0] += 3.0


@given(st.one_of(st.text(max_size=300), st.from_regex(r"\s?-?\d{1,25}\s?")))
@example("0\x1f")
@example("-007")
def test_any_text(text: str) -> None:
    found = files.number(text)
    assert found is None or text.strip().removeprefix("-").lstrip("0") == (str(abs(found)) if found else "")
    for key in ("pswpout ", "MemTotal:", text[:3]):
        files.value(text, key)
    some, full = averages(text)
    assert some is None or some >= 0
    assert full is None or full >= 0
    assert macos_outputs.heat(text) is None or text.startswith("com.apple")
    assert all(value >= 0 for value in macos_outputs.vm_stat(text).values())


@given(st.lists(st.tuples(st.floats(0, 100), st.one_of(st.none(), st.integers(0, 10**20)))))
def test_a_rate_is_never_negative(readings: Iterable[tuple[float, int | None]]) -> None:
    rate = Rate()
    for at, counter in readings:
        found = rate.add(at, counter)
        assert found is None or found >= 0


def test_a_tree_without_anything(tmp_path: Path) -> None:
    assert thermal_zones.read(str(tmp_path)) is None
    assert groups(str(tmp_path)) == []
    seen = LinuxHost(tmp_path).read()
    assert (seen.total_bytes, seen.source) == (0, "unknown: /proc/meminfo cannot be read")
