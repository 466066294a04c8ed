"""A model hub on a local port: the parts of its HTTP protocol that downloading uses, and how it can fail.

    GET  /api/models/{repo}[/revision/{rev}]?blobs=true     the listing: commit, names, sizes, hashes
    GET  /{repo}/resolve/{rev}/{file}                       small files; large ones redirect to the CDN
    GET  /cdn/{etag}                                        on a second port, so on another origin

Both serve Range requests. What goes wrong is set on the `Hub` object between requests.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 4096  # bytes from which a file counts as LFS: sha256, and a redirect to the CDN


@dataclass
class Repo:
    files: dict[str, bytes]
    commit: str
    branches: set[str] = field(default_factory=lambda: {"main"})
    gated: bool = False
    private: bool = False

    def named(self, revision: str) -> bool:
        return revision in self.branches or (len(revision) >= 7 and self.commit.startswith(revision))


@dataclass
class Seen:
    """One request as it arrived."""

    port: int
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    """Start with `Hub.start()`, end with `close()`. Bytes served count only file bodies."""

    repos: dict[str, Repo] = field(default_factory=dict)
    token: str | None = None  # the only one accepted; None: any or none
    cuts: list[int] = field(default_factory=list)  # each: cut one answer after so many bytes of body
    statuses: list[int] = field(default_factory=list)  # each: answer one file request with this instead
    headers: dict[str, str] = field(default_factory=dict)  # beside such a status
    ignore_range: bool = False
    ill: str = ""  # what every request meets: "error" HTTP 500, "garbage", "hang", "slow" a byte at a time
    healed: threading.Event = field(default_factory=threading.Event)  # ends "hang" and "slow"
    spoil: int = 0  # so many file bodies arrive with one wrong byte
    extra_names: list[str] = field(default_factory=list)  # in every listing
    announced: dict[str, int] = field(default_factory=dict)  # file name -> the size that listings give it
    gate: threading.Event | None = None  # bodies stop half-way until it is set
    half_way: threading.Event = field(default_factory=threading.Event)  # set when one has stopped there
    on_file: Callable[[Hub], None] | None = None  # called before each file request is answered
    served: int = 0
    seen: list[Seen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def start(cls) -> Hub:
        hub = cls()
        hub._servers = [_server(hub), _server(hub)]
        return hub

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def close(self) -> None:
        self.heal()
        if self.gate:
            self.gate.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def heal(self) -> None:
        self.ill = ""
        self.healed.set()

    def add(self, repo: str, files: dict[str, bytes], **more: Any) -> Repo:
        digest = hashlib.sha1(json.dumps({n: blob_id(d) for n, d in files.items()}).encode()).hexdigest()
        self.repos[repo] = Repo(dict(files), digest, **more)
        return self.repos[repo]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Variables that point the hub's client, and ours, at this server and at a cache of its own."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), **more}

    def file_requests(self) -> list[Seen]:
        return [seen for seen in self.seen if "/resolve/" in seen.path or seen.path.startswith("/cdn/")]

    _servers: list[ThreadingHTTPServer] = field(default_factory=list)


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if len(data) >= LARGE else blob_id(data)


def random_cuts(count: int, below: int, seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(1, below) for _ in range(count)]


def _server(hub: Hub) -> ThreadingHTTPServer:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    headers: Message

    def log_message(self, format: str, *args: object) -> None:
        """Silent: a failing test shows `hub.seen`."""

    def do_GET(self) -> None:
        self._note()
        if self.hub.ill:
            self._be_ill(self.hub.ill)
            return
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/cdn/"):
            self._cdn(path.removeprefix("/cdn/"))
        elif path.startswith("/api/models/"):
            self._listing(path.removeprefix("/api/models/"))
        else:
            self._resolve(path)

    do_HEAD = do_GET

    def _be_ill(self, how: str) -> None:
        self.close_connection = True
        if how == "error":
            self._answer(500, b"", {})
        elif how == "garbage":
            self._answer(200, b"<html>it works</html>", {"Content-Type": "application/json"})
        elif how == "hang":
            self.hub.healed.wait(60)
        else:
            assert how == "slow"
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            try:
                while not self.hub.healed.wait(0.05):
                    self.wfile.write(b" ")
                    self.wfile.flush()
            except OSError:
                return  # the client went away

    def _note(self) -> None:
        with self.hub.lock:
            port = self.server.server_address[1]
            heads = self.headers
            self.hub.seen.append(Seen(port, self.path, heads.get("Range"), heads.get("Authorization")))

    def _listing(self, path: str) -> None:
        name, _, revision = path.partition("/revision/")
        repo = self._allowed(name)
        if repo is None:
            return
        if not repo.named(unquote(revision) or "main"):
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        siblings = [_sibling(file, data) for file, data in repo.files.items()]
        siblings += [{**_sibling(file, b"{}"), "rfilename": file} for file in self.hub.extra_names]
        for sibling in siblings:
            sibling["size"] = self.hub.announced.get(sibling["rfilename"], sibling["size"])
        body = {
            "id": name,
            "modelId": name,
            "sha": repo.commit,
            "private": repo.private,
            "siblings": siblings,
        }
        self._answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, path: str) -> None:
        match = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path)
        if match is None:
            self._answer(404, b"", {})
            return
        repo = self._allowed(match[1])
        if repo is None:
            return
        if self.hub.on_file:
            self.hub.on_file(self.hub)
        data = repo.files.get(match[3])
        if data is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        heads = {"X-Repo-Commit": repo.commit, "ETag": f'"{etag(data)}"', "Accept-Ranges": "bytes"}
        if len(data) >= LARGE:
            heads |= {"X-Linked-Etag": f'"{etag(data)}"', "X-Linked-Size": str(len(data))}
            heads["Location"] = f"{self.hub.cdn}/cdn/{etag(data)}"
            self._answer(302, b"", heads)
        else:
            self._body(data, heads)

    def _cdn(self, wanted: str) -> None:
        for repo in self.hub.repos.values():
            for data in repo.files.values():
                if etag(data) == wanted:
                    self._body(data, {"ETag": '"of-the-cdn"', "Accept-Ranges": "bytes"})
                    return
        self._answer(404, b"", {})

    def _allowed(self, name: str) -> Repo | None:
        """The repo, or None once the refusal has been sent."""
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        repo = self.hub.repos.get(name)
        if given and self.hub.token is not None and given != self.hub.token:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and not given):
            self._refuse(401 if not given else 404, "RepoNotFound", "Repository not found")
        elif repo.gated and given != self.hub.token:
            self._refuse(401 if not given else 403, "GatedRepo", "Access to this model is restricted")
        else:
            return repo
        return None

    def _body(self, data: bytes, heads: dict[str, str]) -> None:
        hub = self.hub
        with hub.lock:
            status = hub.statuses.pop(0) if hub.statuses else 0
            cut = hub.cuts.pop(0) if hub.cuts and not status and len(data) >= LARGE else None
            spoiled = hub.spoil > 0 and len(data) >= LARGE and not status
            hub.spoil -= spoiled
        if status:
            self._answer(status, b"", hub.headers)
            return
        if spoiled:
            data = bytes([data[0] ^ 1]) + data[1:]
        start, whole = 0, len(data)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and not hub.ignore_range:
            start = int(asked[1])
            if start >= whole:
                self._answer(416, b"", {"Content-Range": f"bytes */{whole}"})
                return
            heads = {**heads, "Content-Range": f"bytes {start}-{whole - 1}/{whole}"}
        self._stream(206 if start else 200, data[start:], heads, cut)

    def _stream(self, status: int, data: bytes, heads: dict[str, str], cut: int | None) -> None:
        """The body in pieces; after `cut` bytes the connection just ends."""
        self.send_response(status)
        for name, value in {**heads, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(data) if cut is None else min(cut, len(data))
        half = len(data) // 2 if self.hub.gate and len(data) >= LARGE else None
        try:
            for at in range(0, end, 4096):
                if half is not None and at + 4096 > half and self.hub.gate:
                    self.wfile.flush()
                    self.hub.half_way.set()
                    self.hub.gate.wait(60)
                    half = None
                piece = data[at : min(at + 4096, end)]
                self.wfile.write(piece)
                with self.hub.lock:
                    self.hub.served += len(piece)
        except OSError:
            self.close_connection = True  # the client went away, as some tests make it do
            return
        if end < len(data):
            self.wfile.flush()
            self.close_connection = True

    def _refuse(self, status: int, code: str, message: str) -> None:
        heads = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._answer(status, json.dumps({"error": message}).encode(), heads)

    def _answer(self, status: int, body: bytes, heads: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**heads, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob_id(data)}
    if len(data) >= LARGE:
        entry["lfs"] = {"sha256": etag(data), "size": len(data), "pointerSize": 134}
    return entry
