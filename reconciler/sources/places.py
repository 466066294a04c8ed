"""Every folder in which a rename, an edit or a new link can change what one path means.

A path may go through links: `lmx.yaml -> ..data/lmx.yaml`, with `..data` itself a link that is
replaced as a whole. Each link on the way is a place to watch, and so is the file at the end.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MAX_LINKS = 40  # as in the kernel: more is a circle


@dataclass(frozen=True)
class Place:
    """One name in one folder. `inode` tells a folder from another that took its path."""

    folder: Path
    name: str
    inode: tuple[int, int]


def places(path: Path) -> frozenset[Place]:
    """The places `path` goes through. Where it leads nowhere, the last is the first name that is missing.

    Links that lie in `/` itself are left out: on macOS `/tmp` and `/var` are such links, nobody swaps
    them, and watching `/` there would mean every event of the machine.
    """
    found: set[Place] = set()
    folder = Path("/")
    rest = list(Path(os.path.abspath(path)).parts[1:]) or ["."]
    links = 0
    while rest:
        name = rest.pop(0)
        if name == "..":
            folder = folder.parent
            continue
        here = folder / name
        target = _target(here)
        if target is not None and links < MAX_LINKS:
            links += 1
            _add(found, folder, name)
            folder = Path("/") if target.is_absolute() else folder
            rest = [part for part in target.parts if part != "/"] + rest
        elif not rest or not os.path.isdir(here):
            _add(found, folder, name)
            break
        else:
            folder = here
    return frozenset(found)


def _target(path: Path) -> Path | None:
    try:
        return Path(os.readlink(path))
    except OSError:
        return None  # no link, not there, or not for us to see


def _add(found: set[Place], folder: Path, name: str) -> None:
    try:
        status = os.stat(folder)
    except OSError:
        return  # gone between two looks; the poll looks again
    if folder != Path("/"):
        found.add(Place(folder, name, (status.st_dev, status.st_ino)))
