"""Linux: physical memory, or the smallest control-group limit above this process.

A container sees the whole host in /proc/meminfo, and is killed at its own limit. Both versions of the
control-group files are read (https://docs.kernel.org/admin-guide/cgroup-v2.html#memory): a limit may sit
on any ancestor, and inside a container the path that /proc names may not be mounted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from reconciler.observed import MemoryObs


@dataclass(frozen=True)
class _Files:
    """What the two versions call the same things."""

    root: str
    limit: str
    usage: str
    reclaimable: str  # the key in memory.stat: page cache that the kernel gives back first


V2 = _Files("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
V1 = _Files("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def read(root: Path = Path("/")) -> MemoryObs:
    """`root` is where proc and sys are mounted; tests give their own."""
    machine = psutil.virtual_memory()
    total, available, source = machine.total, machine.available, "physical memory"
    for folder, files in _groups(root):
        limit = _number(folder / files.limit)
        if limit is None or limit >= total:
            continue
        usage = _number(folder / files.usage) or 0
        free = limit - usage + _reclaimable(folder / "memory.stat", files.reclaimable)
        total, source = limit, f"cgroup ({folder / files.limit})"
        available = min(available, max(0, free))
    return MemoryObs(total_bytes=total, available_bytes=min(available, total), source=source)


def _groups(root: Path) -> Iterator[tuple[Path, _Files]]:
    """This process's control group and its ancestors, in both versions."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return  # no control groups in this kernel
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            files = V2
        elif "memory" in controllers.split(","):
            files = V1
        else:
            continue
        group = PurePosixPath(path)
        for part in (group, *group.parents):
            folder = root / files.root / str(part).lstrip("/")
            if ".." not in part.parts and folder.is_dir():
                yield folder, files


def _number(file: Path) -> int | None:
    """None where there is no such file, or no limit: the word `max`. v1 writes a number no machine has."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None  # the root group has no limit file
    return int(text) if text.isdecimal() else None


def _reclaimable(file: Path, key: str) -> int:
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(value) for name, _, value in (line.partition(" ") for line in lines) if name == key), 0)
