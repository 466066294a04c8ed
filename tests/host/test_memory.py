"""The memory reading: a container's limit counts, not the host's RAM."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from appliance.host import memory, memory_linux, memory_macos

GIB = 2**30


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 GiB, of which 40 GiB are free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GIB, available=40 * GIB))


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_control_groups_it_is_physical_memory(tmp_path: Path) -> None:
    seen = memory_linux.read(tmp_path)
    assert (seen.total_bytes, seen.available_bytes, seen.source) == (64 * GIB, 40 * GIB, "physical memory")


def test_the_smallest_limit_above_the_process_counts(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/work/lmx.service\n",
            "sys/fs/cgroup/work/lmx.service/memory.max": "max\n",
            "sys/fs/cgroup/work/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/work/memory.current": f"{6 * GIB}\n",
            "sys/fs/cgroup/work/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}\nactive_file 5\n",
            "sys/fs/cgroup/cgroup.controllers": "memory\n",
        },
    )
    seen = memory_linux.read(root)
    assert seen.total_bytes == 8 * GIB
    assert seen.available_bytes == 4 * GIB  # page cache that the kernel gives back counts as free
    assert seen.source == f"cgroup ({root}/sys/fs/cgroup/work/memory.max)"


def test_version_1_inside_a_container_whose_path_is_not_mounted(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
        },
    )
    seen = memory_linux.read(root)
    assert (seen.total_bytes, seen.available_bytes) == (2 * GIB, GIB)


def test_no_limit_is_not_a_limit(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory.max": "max\n",
        },
    )
    assert memory_linux.read(root).source == "physical memory"


def test_a_group_over_its_limit_has_nothing_left_not_less_than_nothing(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": str(GIB),
            "sys/fs/cgroup/memory.current": str(GIB + 4096),
        },
    )
    assert memory_linux.read(root).available_bytes == 0


def test_a_path_that_climbs_out_is_not_followed(tmp_path: Path) -> None:
    root = _write(tmp_path / "root", {"proc/self/cgroup": "0::/../../../outside\n"})
    _write(tmp_path, {"outside/memory.max": "1\n"})
    assert memory_linux.read(root).source == "physical memory"


def test_this_machine_can_be_read() -> None:
    seen = memory.read()
    assert 0 <= seen.available_bytes <= seen.total_bytes
    assert seen.source


# As printed by `sysctl hw.memsize iogpu.wired_limit_mb`.
STUDIO = "hw.memsize: 137438953472\niogpu.wired_limit_mb: 0\n"
RAISED = "hw.memsize: 137438953472\niogpu.wired_limit_mb: 122880\n"
LOWERED = "hw.memsize: 137438953472\niogpu.wired_limit_mb: 65536\n"
OLD = "hw.memsize: 17179869184\n"


@pytest.mark.parametrize(
    ("output", "total", "source"),
    [
        (STUDIO, 128 * GIB, "physical memory"),
        (RAISED, 128 * GIB, "physical memory"),
        (LOWERED, 64 * GIB, "Metal working set (iogpu.wired_limit_mb)"),
        (OLD, 16 * GIB, "physical memory"),
    ],
)
def test_macos_counts_metals_limit_only_where_it_is_lower_than_usual(
    output: str, total: int, source: str
) -> None:
    seen = memory_macos.observed(output, available=10 * GIB)
    assert (seen.total_bytes, seen.available_bytes, seen.source) == (total, 10 * GIB, source)


def test_macos_output_without_a_size_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"hw\.memsize"):
        memory_macos.observed("", available=1)
