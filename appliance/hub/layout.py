"""Writing the hub's cache layout: the lock, the disk space, and the moment a revision appears."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from appliance.hub.cache import repo_folder
from appliance.hub.failure import FetchError
from appliance.hub.listing import Listing, RemoteFile

MARGIN = 512 * 2**20  # bytes that stay free: logs, state and other programs live on this disk too
_POLL = 0.2  # seconds between tries for a lock that another process holds
# A folder with one of these is a model folder, so they appear last.
_LAST = ("adapter_config.json", "config.json")


@contextmanager
def locked(cache: Path, repo: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Only one process downloads a repo at a time. The lock goes with the process, however it ends."""
    folder = cache / ".locks" / repo_folder(cache, repo).name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lmx.lock").open("a") as handle:
        rounds = 0
        pause = Event()
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if rounds % 10 == 0:  # told again and again, since that also notices a parent that is gone
                    waiting()
                rounds += 1
                pause.wait(_POLL)
        yield


def check_space(cache: Path, listing: Listing, blobs: Path) -> None:
    """Raises FetchError where what is still missing does not fit on the disk, before a byte is fetched."""
    missing = sum(_missing(file, blobs) for file in {file.etag: file for file in listing.files}.values())
    info = os.statvfs(cache)
    free = info.f_bavail * info.f_frsize
    if missing and missing + MARGIN > free:
        raise FetchError(
            "insufficient_storage",
            f"{listing.repo} needs {missing / 1e9:.1f} GB more on the disk of {cache}; of its "
            f"{free / 1e9:.1f} GB free, {MARGIN / 1e9:.1f} GB must stay so; free space, or set HF_HUB_CACHE",
        )


def _missing(file: RemoteFile, blobs: Path) -> int:
    for name in (file.etag, f"{file.etag}.incomplete"):
        try:
            return max(0, file.size - (blobs / name).stat().st_size)
        except FileNotFoundError:
            continue
    return file.size


def publish(folder: Path, listing: Listing) -> Path:
    """Link every blob into the snapshot, then move the ref: a revision is there whole or not at all."""
    snapshot = folder / "snapshots" / listing.commit
    for file in sorted(listing.files, key=lambda file: (file.name in _LAST, file.name)):
        pointer = snapshot / file.name
        pointer.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(folder / "blobs" / file.etag, pointer.parent)
        if not pointer.is_symlink() or os.readlink(pointer) != target:
            fresh = _beside(pointer)
            fresh.symlink_to(target)
            _move(fresh, pointer)
    if listing.revision != listing.commit:
        ref = folder / "refs" / listing.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        fresh = _beside(ref)
        fresh.write_text(listing.commit, encoding="ascii")
        _move(fresh, ref)
    return snapshot


def _beside(path: Path) -> Path:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    return fresh


def _move(fresh: Path, path: Path) -> None:
    """Rename over `path`: readers see the old one or the new one, nothing between."""
    try:
        os.replace(fresh, path)
    except OSError as error:
        fresh.unlink()
        if error.errno == errno.EISDIR:
            raise FetchError("storage", f"{path} is a folder; remove it and pull again") from error
        raise
