"""`python -m appliance.hub.fetch org/name`: download one revision into the hub's cache.

A process of its own, because several gigabytes take minutes and a newer generation may want to stop
them at once: it can be killed at any moment, and the next run goes on where this one ended. It speaks
JSON lines on standard output and nothing else; the last one is `done` or `error`. In `retry`, `failed` says
how many tries in a row the hub did not answer; 0 where it did.

    {"event": "start", "done": 0, "total": 1234, "commit": "..."}
    {"event": "progress", "done": 100, "total": 1234, "arrived": 100, "rate": 5.0, "eta": 227, "file": "..."}
    {"event": "retry", "message": "...", "failed": 2}
    {"event": "waiting", "message": "..."}
    {"event": "done", "path": "...", "commit": "..."}
    {"event": "error", "code": "gated", "message": "...", "permanent": true}
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TextIO

import httpx
from huggingface_hub import constants, get_token

from appliance.hub import blob, layout, listing
from appliance.hub.blob import Changed, Patience, Source, Stopped
from appliance.hub.cache import cache_folder, repo_folder
from appliance.hub.failure import FetchError
from appliance.hub.listing import Listing, RemoteFile, Unreachable

BEAT = 0.25  # seconds between progress lines
WINDOW = 5.0  # seconds over which the rate is measured
STREAMS = 4  # files at a time: one connection rarely fills a line

Tell = Callable[[dict[str, Any]], None]


class Meter:
    """Bytes so far, and how fast. Called from every stream's thread."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self.file = ""
        self._clock = clock
        self._lock = threading.Lock()
        self._arrived = 0  # over the wire in this run: what was on disk already has no speed
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)])

    def moved(self, count: int) -> None:
        with self._lock:
            self.done += count

    def arrived(self, count: int, name: str) -> None:
        with self._lock:
            self._arrived += max(0, count)
            self.file = name

    def reading(self) -> dict[str, Any]:
        with self._lock:
            now = self._clock()
            self._samples.append((now, self._arrived))
            while len(self._samples) > 2 and self._samples[0][0] < now - WINDOW:
                self._samples.popleft()
            since, had = self._samples[0]
            rate = (self._arrived - had) / (now - since) if now > since else 0.0
            left = max(0, self.total - self.done)
            eta = round(left / rate, 1) if rate > 0 else None
            return {
                "done": self.done,
                "total": self.total,
                "arrived": self._arrived,
                "rate": round(rate, 1),
                "eta": eta,
                "file": self.file,
            }


def download(
    repo: str,
    revision: str | None,
    cache: Path,
    tell: Tell,
    *,
    allow_code: bool = False,
    patience: Patience | None = None,
) -> Path:
    """The snapshot's folder, complete and verified. Raises FetchError."""
    patience = patience or Patience()
    wanted = _listed(repo, revision, allow_code, patience, tell)
    folder = repo_folder(cache, repo)
    try:
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        with layout.locked(cache, repo, lambda: tell(_waiting(repo))):
            for _ in range(3):
                layout.check_space(cache, wanted, folder / "blobs")
                try:
                    _blobs(wanted, folder / "blobs", patience, tell)
                    return layout.publish(folder, wanted)
                except Changed as change:
                    tell(_retry(f"{change}; listing {repo} again", 0))
                    fresh = _listed(repo, revision, allow_code, patience, tell)
                    _forget(wanted, fresh, folder / "blobs")
                    wanted = fresh
    except OSError as error:
        raise FetchError("storage", f"cannot write {error.filename or folder}: {error.strerror}") from error
    raise FetchError("checksum_mismatch", f"{repo} does not match its own listing; pull again later")


def _waiting(repo: str) -> dict[str, Any]:
    return {"event": "waiting", "message": f"another process is downloading {repo}; waiting for it"}


def _retry(message: str, failed: int) -> dict[str, Any]:
    return {"event": "retry", "message": message, "failed": failed}


def _listed(repo: str, revision: str | None, allow_code: bool, patience: Patience, tell: Tell) -> Listing:
    failures = 0
    while True:
        try:
            return listing.ask(repo, revision, allow_code=allow_code)
        except Unreachable as error:
            failures += 1
            if failures >= patience.tries:
                raise FetchError("network", f"{error}; check the connection") from error
            pause = patience.wait(failures, error.retry_after)
            tell(_retry(f"{error}; trying again in {pause:.1f} s", failures))
            time.sleep(pause)


def _forget(old: Listing, fresh: Listing, blobs: Path) -> None:
    """Remove the beginnings of files that no longer exist in that form."""
    kept = {file.etag for file in fresh.files}
    for file in old.files:
        if file.etag not in kept:
            (blobs / f"{file.etag}.incomplete").unlink(missing_ok=True)


def _blobs(wanted: Listing, blobs: Path, patience: Patience, tell: Tell) -> None:
    """All files, a few at a time, largest last, so that what is missing shows early. First error wins."""
    meter = Meter(wanted.total)
    stop = threading.Event()
    files = sorted({file.etag: file for file in wanted.files}.values(), key=lambda file: file.size)

    with (
        httpx.Client(timeout=blob.TIMEOUT, limits=httpx.Limits(max_connections=2 * STREAMS)) as client,
        ThreadPoolExecutor(STREAMS, thread_name_prefix="fetch") as pool,
    ):

        def one(file: RemoteFile) -> None:
            source = Source(
                client=client,
                endpoint=constants.ENDPOINT,
                token=get_token(),
                patience=patience,
                stop=stop,
                moved=meter.moved,
                arrived=lambda count: meter.arrived(count, file.name),
                retrying=lambda message, failed: tell(_retry(message, failed)),
            )
            if stop.is_set():
                raise Stopped
            blob.fetch(source, wanted, file, blobs)

        tell({"event": "start", "done": 0, "total": wanted.total, "commit": wanted.commit})
        running: set[Future[None]] = {pool.submit(one, file) for file in files}
        try:
            while running:
                finished, running = wait(running, timeout=BEAT, return_when=FIRST_EXCEPTION)
                tell({"event": "progress", **meter.reading()})
                for future in sorted(finished, key=lambda future: isinstance(future.exception(), Stopped)):
                    future.result()
        finally:
            stop.set()  # the pool's exit waits for every thread: a chunk, at most


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="appliance.hub.fetch", description="Download a model from the Hub.")
    parser.add_argument("repo")
    parser.add_argument("--revision")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--first-pause", type=float, default=Patience().first, metavar="SECONDS")
    parser.add_argument("--allow-code", action="store_true", help="also the repo's Python files")
    given = parser.parse_args(arguments)
    # Nothing that a library prints may get among the lines.
    with contextlib.redirect_stdout(sys.stderr):
        return _run(given, _teller(sys.__stdout__ or sys.stderr))


def _run(given: argparse.Namespace, tell: Tell) -> int:
    try:
        cache = given.cache or cache_folder()
        patience = Patience(first=given.first_pause)
        path = download(
            given.repo, given.revision, cache, tell, allow_code=given.allow_code, patience=patience
        )
    except FetchError as error:
        said = {"code": error.code, "message": error.message, "permanent": error.permanent}
        tell({"event": "error", **said})
        return 1
    tell({"event": "done", "path": str(path), "commit": path.name})
    return 0


def _teller(stream: TextIO) -> Tell:
    """One JSON line at a time, from any thread."""
    lock = threading.Lock()

    def tell(message: dict[str, Any]) -> None:
        with lock:
            try:
                stream.write(json.dumps(message) + "\n")
                stream.flush()
            except BrokenPipeError:
                # Whoever started this is gone. At once, and not after a read that may take half a minute;
                # the next run goes on from here.
                os._exit(1)

    return tell


if __name__ == "__main__":
    sys.exit(main())
