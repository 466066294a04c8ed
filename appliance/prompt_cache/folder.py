"""Folders of 0700 and files of 0600, written whole or not at all, and nothing of anybody else's touched.

    ROOT/1/NAMESPACE/about.json
    ROOT/1/NAMESPACE/ab/abcdef….safetensors
    ROOT/1/NAMESPACE/sessions/….json
    ROOT/1/NAMESPACE/damaged/

ROOT may be a link (people move caches to other disks); below it links are foreign. Foreign things are
never followed, written through or deleted, and names that are not ours do not exist for us. `1` is private,
and so is all below it, whatever ROOT's own rights are: those stay as the user has them, for the folder may
hold other things too. A root that we make is private as well.

No fsync: a file that a power cut tore is found by its checksum, and a cache may lose its newest files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

LAYOUT = "1"
SUFFIX = ".safetensors"
BLOCK = re.compile(r"([0-9a-f]{32})\.safetensors")
OURS = re.compile(r"[0-9a-f]{2}|damaged|sessions")
NAMESPACE = re.compile(r"[0-9A-Za-z_-]{1,64}")
TEMPORARY = re.compile(r"\.[0-9a-z]+\.(\d+)\.([0-9a-f]{16})\.tmp")
STALE_S = 3600.0  # no write takes so long, whoever's process has that number now

_WRITER = secrets.token_hex(8)  # tells this process from an earlier one of the same number, as in containers
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not make a reader wait
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Foreign(Exception):
    """Something that is not ours lies where one of our files or folders would be."""


class Stopped(Exception):
    """The writing was given up because the store closes."""


@dataclass(frozen=True)
class Found:
    """A file of ours. key: None where it is not a block or state. used_ns: its modification time."""

    path: str
    namespace: str
    key: bytes | None
    nbytes: int
    used_ns: int
    damaged: bool


def block_path(namespace: str | Path, key: bytes) -> str:
    name = key.hex()
    return f"{namespace}/{name[:2]}/{name}{SUFFIX}"


def make_private(folder: str | Path) -> str | None:
    """Make `folder` (not its parents) for this user alone. A sentence where others can still look in.

    Raises Foreign where it is a link or no folder, and OSError.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise Foreign(f"{folder} is not a folder: move it away")
    if stat.S_IMODE(status.st_mode) == 0o700:
        return None
    with contextlib.suppress(PermissionError):  # another user's: what we see then is said
        os.chmod(folder, 0o700)  # also after mkdir, which obeys the umask
    mode = stat.S_IMODE(os.lstat(folder).st_mode)
    return f"other users may look into {folder}: make it yours and `chmod 700` it" if mode & 0o077 else None


def make_root(root: Path) -> None:
    """Make the root and what is missing above it. Raises Foreign where a file is in the way, and OSError."""
    if not root.is_dir():
        if root.parent != root:
            make_root(root.parent)
        make_private(root)


def open_ours(path: str) -> tuple[FileIO, os.stat_result]:
    """Open a plain file for reading. Raises Foreign for anything else, and OSError."""
    if _elsewhere(path):
        raise Foreign(f"{os.path.dirname(path)} is a link: move it away")
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):  # a link, or a socket
            raise Foreign(f"{path} is not a plain file") from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise Foreign(f"{path} is not a plain file")
    return FileIO(descriptor, "rb"), status


def check_plain(path: str) -> None:
    """Raises Foreign where this name is taken by anything but a plain file: renaming would delete it."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise Foreign(f"{path} is not a plain file: move it away")
    except FileNotFoundError:
        pass


def temporary(folder: str) -> str:
    return f"{folder}/.{secrets.token_hex(8)}.{os.getpid()}.{_WRITER}.tmp"


def write_whole(
    path: str,
    groups: Iterable[list[memoryview]],
    used_ns: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write a file of mode 0600 beside its name and rename it. `stop` is asked between two groups.

    Raises Stopped, Foreign, and OSError with the folder's name; nothing of the file is left then.
    """
    check_plain(path)
    within = os.path.dirname(path)
    beside = temporary(within)
    try:
        descriptor = os.open(beside, _WRITE, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # a umask may have taken rights from ourselves
            for group in groups:
                if stop():
                    raise Stopped
                _write_all(descriptor, group)
        finally:
            os.close(descriptor)  # may report a full disk too, on a network
        if used_ns is not None:
            os.utime(beside, ns=(used_ns, used_ns))
        os.rename(beside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell; a later scan clears up
            remove(beside)
        if isinstance(error, OSError):
            error.filename = within  # what a person can do something about
        raise


def remove(path: str) -> bool:
    """Unlink a file of ours; False where there was none, perhaps because another engine was quicker."""
    try:
        if _elsewhere(path) or not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def walk(root: Path) -> Iterator[Found]:
    """All files of ours in all namespaces. What dead writers left is deleted on the way. Raises OSError."""
    for namespace in _folders(root / LAYOUT, NAMESPACE):
        for folder in (namespace, *_folders(namespace, OURS)):
            name = os.path.basename(folder)
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if TEMPORARY.fullmatch(entry.name):
                            _clean(entry)
                        elif found := _found(entry, os.path.basename(namespace), name):
                            yield found
            except FileNotFoundError:
                continue  # a whole namespace went while we looked


def _elsewhere(path: str) -> bool:
    """Whether the file's folder is a link, which the system would follow."""
    return os.path.islink(os.path.dirname(path))


def subfolders(namespace: Path) -> list[str]:
    """The folders of ours in a namespace."""
    return _folders(namespace, OURS)


def namespaces(root: Path) -> list[Path]:
    return [Path(path) for path in _folders(root / LAYOUT, NAMESPACE)]


def blocks(namespace: Path) -> list[str]:
    """Paths of a namespace's blocks and states."""
    found = []
    for folder in _folders(namespace, OURS):
        with os.scandir(folder) as entries:
            found += [f.path for e in entries if (f := _found(e, namespace.name, os.path.basename(folder)))]
    return [path for path in found if os.path.basename(os.path.dirname(path)) != "damaged"]


def _found(entry: os.DirEntry[str], namespace: str, folder: str) -> Found | None:
    match = BLOCK.fullmatch(entry.name)
    if match is None or folder == "sessions":
        return None
    damaged = folder == "damaged"
    if not damaged and entry.name[:2] != folder:
        return None
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    key = None if damaged else bytes.fromhex(match[1])
    return Found(entry.path, namespace, key, status.st_size, status.st_mtime_ns, damaged)


def _folders(folder: str | Path, names: re.Pattern[str]) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [e.path for e in entries if names.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _clean(entry: os.DirEntry[str]) -> None:
    """Delete a temporary file whose writer is dead."""
    match = TEMPORARY.fullmatch(entry.name)
    assert match is not None
    try:
        if time.time() - entry.stat(follow_symlinks=False).st_mtime < STALE_S and _writes(match[1], match[2]):
            return
        remove(entry.path)
    except FileNotFoundError:
        return  # its writer has just renamed it


def _writes(process: str, writer: str) -> bool:
    if int(process) == os.getpid():
        return writer == _WRITER
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _write_all(descriptor: int, group: list[memoryview]) -> None:
    while group:
        done = os.writev(descriptor, group)
        while group and done >= len(group[0]):
            done -= len(group.pop(0))
        if group and done:
            group[0] = group[0][done:]
