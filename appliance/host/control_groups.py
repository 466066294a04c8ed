"""Linux: the control groups above this process, and the memory they leave it.

A container sees the whole host in /proc/meminfo, and is killed at its own limit. Both versions of the
control-group files are read (https://docs.kernel.org/admin-guide/cgroup-v2.html#memory): a limit may sit
on any ancestor, and inside a container the path that /proc names may not be mounted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from appliance.host.files import number, text, value


@dataclass(frozen=True)
class Files:
    """What the two versions call the same things. reclaimable: keys of memory.stat, the page cache that
    the kernel gives back before it kills anything."""

    root: str
    limit: str
    usage: str
    reclaimable: tuple[str, ...]
    pressure: str | None


V2 = Files(
    "sys/fs/cgroup",
    "memory.max",
    "memory.current",
    ("inactive_file ", "active_file ", "slab_reclaimable "),
    "memory.pressure",
)
V1 = Files(
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file ", "total_active_file "),
    None,
)


@dataclass(frozen=True)
class Group:
    folder: str
    files: Files

    def limit(self) -> int | None:
        """Bytes; None where there is none: no file, or the word `max`. v1 writes a number no machine has."""
        return number(text(f"{self.folder}/{self.files.limit}"))

    def free(self, limit: int) -> int:
        """Bytes that may still be taken before the group is full. Page cache counts as free."""
        usage = number(text(f"{self.folder}/{self.files.usage}")) or 0
        stat = text(f"{self.folder}/memory.stat")
        cache = sum(max(0, value(stat, key) or 0) for key in self.files.reclaimable)
        return max(0, limit - usage + min(cache, max(0, usage)))

    def pressure(self) -> str:
        return text(f"{self.folder}/{self.files.pressure}") if self.files.pressure is not None else ""


def groups(root: str) -> list[Group]:
    """This process's group first, then its ancestors; version 2 and 1, whichever is there."""
    return list(_found(root))


def _found(root: str) -> Iterator[Group]:
    for line in text(f"{root}/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            files = V2
        elif "memory" in controllers.split(","):
            files = V1
        else:
            continue
        group = PurePosixPath(path)
        if ".." in group.parts:
            continue  # outside of this process's own view
        for part in (group, *group.parents):
            inside = "/".join(name for name in part.parts if name.strip("/"))
            folder = f"{root}/{files.root}/{inside}".rstrip("/")
            if "\0" not in folder and os.path.isdir(folder):
                yield Group(folder, files)
