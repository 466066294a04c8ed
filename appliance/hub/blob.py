"""One file's bytes, from the hub or its CDN into the cache: resumable, verified, never half there.

The bytes go to `<etag>.incomplete`, which survives cuts, cancels and kills; a hash over all of them is
compared before the rename that makes the blob exist. The token goes to the hub alone: redirects are
followed by hand, and another origin gets a request without it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from urllib.parse import quote

import httpx

from appliance.hub.failure import FetchError
from appliance.hub.listing import Listing, RemoteFile, Unreachable, gated, refused, seconds

CHUNK = 1 << 20  # bytes read at a time when a file is hashed
REDIRECTS = 5
TIMEOUT = httpx.Timeout(30.0, connect=10.0)  # seconds without a byte, not for the whole
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Changed(Exception):
    """The hub no longer serves the file that was listed: list again, and start that file over."""


class Stopped(Exception):
    """Another file failed, so this one need not go on."""


@dataclass(frozen=True)
class Patience:
    """Waits between tries, in seconds. A try that brought bytes starts the count again."""

    first: float = 0.25
    factor: float = 3.0
    longest: float = 30.0
    tries: int = 7  # without one byte between them: about a minute and a half

    def wait(self, failures: int, asked: float | None = None) -> float:
        """After so many failures in a row; at least what the server asked for, up to five minutes."""
        planned: float = min(self.longest, self.first * self.factor ** max(0, failures - 1))
        return max(planned * random.uniform(0.8, 1.2), min(asked or 0.0, 300.0))


@dataclass(frozen=True)
class Source:
    """Where blobs come from, and whom to tell.

    moved: so many more bytes of the whole are here (negative: lost). arrived: over the wire just now.
    retrying: why, and how many tries in a row the hub has failed; 0 where it answered.
    """

    client: httpx.Client
    endpoint: str
    token: str | None
    patience: Patience
    stop: Event
    moved: Callable[[int], None]
    arrived: Callable[[int], None]
    retrying: Callable[[str, int], None]


class _Digest:
    """The hash by which the cache names a blob."""

    def __init__(self, file: RemoteFile) -> None:
        self._hash = hashlib.sha256() if file.algorithm == "sha256" else hashlib.sha1(usedforsecurity=False)
        if file.algorithm == "git-sha1":
            self._hash.update(b"blob %d\0" % file.size)

    def feed(self, data: bytes) -> None:
        self._hash.update(data)

    def matches(self, file: RemoteFile) -> bool:
        return self._hash.hexdigest() == file.etag


def fetch(source: Source, listing: Listing, file: RemoteFile, blobs: Path) -> None:
    """Make `blobs/<etag>` exist. Raises FetchError, Changed or Stopped; what has arrived stays either way."""
    final, partial = blobs / file.etag, blobs / f"{file.etag}.incomplete"
    if final.is_file() and final.stat().st_size == file.size:
        source.moved(file.size)
        return
    with _storage():
        spoiled = 0
        while True:
            _complete(source, listing, file, partial)
            if _verified(source, file, partial):
                break
            partial.unlink()
            source.moved(-file.size)
            spoiled += 1
            if spoiled > 1:
                raise FetchError(
                    "checksum_mismatch",
                    f"{file.name} of {listing.repo} arrived twice with other content than the Hub announces; "
                    "a proxy on the way may alter downloads",
                )
            source.retrying(f"{file.name}: wrong checksum, fetching it again", 0)
        os.replace(partial, final)


def _verified(source: Source, file: RemoteFile, partial: Path) -> bool:
    digest = _Digest(file)
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
        while data := stream.read(CHUNK):
            if source.stop.is_set():
                raise Stopped
            digest.feed(data)
    return digest.matches(file)


def _complete(source: Source, listing: Listing, file: RemoteFile, partial: Path) -> None:
    """Try until the partial file has its full length."""
    failures = 0
    known = partial.stat().st_size if partial.exists() else 0
    if known > file.size:
        partial.unlink()
        known = 0
    source.moved(known)
    with partial.open("ab") as sink:
        while sink.tell() < file.size:
            before = sink.tell()
            try:
                for data in _body(source, listing, file, sink.tell()):
                    if data is None:  # the server starts at the beginning again
                        source.moved(-sink.tell())
                        sink.truncate(0)
                        sink.seek(0)
                        before = 0
                        continue
                    if sink.tell() + len(data) > file.size:
                        raise Changed(f"{file.name} is longer than listed")
                    sink.write(data)
                    sink.flush()
                    source.moved(len(data))
                    source.arrived(len(data))
                    if source.stop.is_set():
                        raise Stopped
                if sink.tell() < file.size:
                    raise Unreachable("the connection was closed too early")
            except (httpx.HTTPError, httpx.StreamError, Unreachable) as error:
                if source.stop.is_set():
                    raise Stopped from None
                failures = 1 if sink.tell() > before else failures + 1
                reason = str(error) or type(error).__name__
                if failures >= source.patience.tries:
                    raise FetchError("network", f"{file.name} of {listing.repo}: {reason}") from error
                wait = source.patience.wait(failures, getattr(error, "retry_after", None))
                source.retrying(f"{file.name}: {reason}; trying again in {wait:.1f} s", failures)
                if source.stop.wait(wait):
                    raise Stopped from None


def _body(source: Source, listing: Listing, file: RemoteFile, start: int) -> Iterator[bytes | None]:
    """The content from `start` on; first None where the server sends it from the beginning instead."""
    with _answer(source, listing, file, start) as response:
        if response.status_code == 416:
            raise Changed(f"{file.name} is shorter than listed")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Unreachable("the answer is compressed although it was asked for as it is")
        length = response.headers.get("content-length", "")
        total = int(length) if length.isdecimal() else None
        if response.status_code == 206:
            found = _RANGE.fullmatch(response.headers.get("content-range", ""))
            if found is None or int(found[1]) != start:
                raise Unreachable("the server answers another range than was asked for")
            total = None if found[3] == "*" else int(found[3])
        elif start:
            yield None
        if total is not None and total != file.size:
            raise Changed(f"{file.name} has {total} bytes, listed were {file.size}")
        # As they come: asking httpx for larger pieces would lose up to a piece at every cut.
        yield from response.iter_raw()


@contextmanager
def _answer(source: Source, listing: Listing, file: RemoteFile, start: int) -> Iterator[httpx.Response]:
    """A success (200, 206) or 416, after redirects."""
    hub = httpx.URL(source.endpoint)
    url = httpx.URL(f"{source.endpoint}/{listing.repo}/resolve/{listing.commit}/{quote(file.name)}")
    for _ in range(REDIRECTS):
        at_hub = (url.scheme, url.host, url.port) == (hub.scheme, hub.host, hub.port)
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        if at_hub and source.token:
            headers["Authorization"] = f"Bearer {source.token}"
        with source.client.stream("GET", url, headers=headers, follow_redirects=False) as response:
            if at_hub:
                _same_file(response, listing, file)
            if not response.has_redirect_location:
                _check_status(response, listing, at_hub)
                yield response
                return
            url = url.join(response.headers["location"])
        if url.scheme not in ("http", "https") or (hub.scheme == "https" and url.scheme != "https"):
            raise FetchError("unsafe", f"the Hub redirects {file.name} to {url.scheme}://{url.host}; refused")
    raise Unreachable(f"{file.name} was redirected more than {REDIRECTS} times")


def _same_file(response: httpx.Response, listing: Listing, file: RemoteFile) -> None:
    """Raises Changed where the hub names another content or commit than it listed."""
    tag = response.headers.get("x-linked-etag") or response.headers.get("etag") or ""
    tag = tag.removeprefix("W/").strip('"')
    commit = response.headers.get("x-repo-commit", listing.commit)
    if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", tag) and tag != file.etag:
        raise Changed(f"{file.name} changed on the Hub")
    if commit != listing.commit:
        raise Changed(f"{listing.repo} moved to another commit")


def _check_status(response: httpx.Response, listing: Listing, at_hub: bool) -> None:
    status = response.status_code
    if status in (200, 206, 416):
        return
    if at_hub and response.headers.get("x-error-code") == "GatedRepo":
        raise FetchError("gated", gated(listing.repo))
    if at_hub and status == 404:
        raise Changed(f"{response.url.path} is no longer there")
    if at_hub and status in (401, 403):
        raise refused(listing.repo, status, None)
    # A CDN's 403 is a signed address that ran out: the next try asks the hub for a new one.
    raise Unreachable(
        f"{response.url.host} answers HTTP {status}", seconds(response.headers.get("retry-after"))
    )


@contextmanager
def _storage() -> Iterator[None]:
    """What the disk refuses, as typed errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchError(
                "insufficient_storage", f"the disk is full: {error.strerror}; free space and pull again"
            ) from error
        raise FetchError("storage", f"cannot write {error.filename}: {error.strerror}") from error
