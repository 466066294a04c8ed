"""Named conversations: a small JSON file each, beside the blocks they keep.

    ROOT/1/NAMESPACE/sessions/HASH.json    {name, scope, model, leaf, tokens, used_at, keys}

Clients choose names, so a file is called by a hash of name and scope. `keys` lists the blocks and states from
the text's beginning to its end: other engines read it to let these files give way last, and the parent to
drop a session of a model that is not loaded. `Named` is the engine's side; `on_disk` and `drop_on_disk` need
no engine.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

from appliance.prompt_cache import folder, format, keys

SAVE_S = 5.0  # at most once in so long for each session, and on close
FIRST_S = 0.25  # the first time; its last blocks are usually handed over by then
MOST = 1000  # sessions of one namespace; beyond it the least recently used is forgotten (not its blocks)
PINNED_S = 30 * 86400.0  # unused for longer, a session's files give way like all others
FILE_MOST = 4 * 2**20  # bytes
NAME_MOST = 256  # characters
FILE = re.compile(r"[0-9a-f]{32}\.json")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """The newest text sent under a name. leaf: key of its last block or state. tokens: how many it has.

    used_at: seconds since the epoch. model: the name of the model it was for. keys: what is on disk of it.
    """

    name: str
    scope: str
    leaf: bytes
    tokens: int
    used_at: float
    model: str = ""
    keys: tuple[bytes, ...] = ()

    @property
    def file(self) -> str:
        return file_name(self.name, self.scope)


class Keeper(Protocol):
    """What a registry needs of a Store."""

    @property
    def about(self) -> Mapping[str, str]: ...
    def save(self, name: str, make: Callable[[], bytes | None] | None, within: float) -> None: ...
    def chain(self, leaf: bytes) -> list[bytes]: ...
    def sessions(self) -> list[Session]: ...


class Named:
    """The sessions of one engine's model. Safe from any thread; returns at once, but for `load`."""

    def __init__(self, store: Keeper) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._sessions: dict[tuple[str, str], Session] = {}  # the least recently used first
        self._saved: dict[tuple[str, str], float] = {}

    def load(self) -> None:
        """Read the files of earlier engines. What was touched meanwhile is newer."""
        for session in sorted(self._store.sessions(), key=lambda session: session.used_at):
            with self._lock:
                self._sessions.setdefault((session.name, session.scope), session)
        with self._lock:
            by_age = sorted(self._sessions.items(), key=lambda item: item[1].used_at)
            self._sessions = dict(by_age)

    def touch(self, name: str, scope: str, leaf: bytes, tokens: int, now: float) -> None:
        """This text is the session's newest. Raises ValueError for a name that is too long."""
        if len(name) > NAME_MOST:
            raise ValueError(f"a session's name has {NAME_MOST} characters at most, not {len(name)}")
        session = Session(name, scope, leaf, tokens, now, self._store.about.get("model", ""))
        at = name, scope
        with self._lock:
            self._sessions.pop(at, None)
            self._sessions[at] = session
            since = time.monotonic() - self._saved.get(at, float("-inf"))
            oldest = next(iter(self._sessions.values())) if len(self._sessions) > MOST else None
        self._store.save(f"sessions/{session.file}", lambda: self._body(at), max(FIRST_S, SAVE_S - since))
        if oldest is not None:
            self._forget(oldest)

    def drop(self, name: str | None, scope: str | None) -> list[Session]:
        """Forget this one, or all (None), whatever the scope (None); what was dropped. Blocks stay."""
        dropped = [session for session in self.list() if _meant(session, name, scope)]
        for session in dropped:
            self._forget(session)
        return dropped

    def list(self) -> list[Session]:
        """The most recently used first."""
        with self._lock:
            return sorted(self._sessions.values(), key=lambda session: -session.used_at)

    def _forget(self, session: Session) -> None:
        with self._lock:
            self._sessions.pop((session.name, session.scope), None)
            self._saved.pop((session.name, session.scope), None)
        self._store.save(f"sessions/{session.file}", None, 0.0)

    def _body(self, at: tuple[str, str]) -> bytes | None:
        with self._lock:
            session = self._sessions.get(at)
            self._saved[at] = time.monotonic()
        if session is None:
            return None  # dropped a moment ago
        return encode(session, self._store.chain(session.leaf))


# --- files ----------------------------------------------------------------------------------------


def file_name(name: str, scope: str) -> str:
    text = f"{scope}\0{name}".encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=keys.SIZE, person=b"lmx session").hexdigest() + ".json"


def encode(session: Session, chain: Collection[bytes]) -> bytes:
    shown = asdict(session) | {"leaf": session.leaf.hex(), "keys": [key.hex() for key in chain]}
    return json.dumps(shown).encode()


def decode(body: bytes, now: float) -> Session | None:
    """None where it is no session of ours. A time after `now` counts as now."""
    try:
        said = json.loads(body)
        session = Session(
            name=said["name"],
            scope=said["scope"],
            leaf=bytes.fromhex(said["leaf"]),
            tokens=int(said["tokens"]),
            used_at=min(float(said["used_at"]), now),
            model=said["model"],
            keys=tuple(bytes.fromhex(key) for key in said["keys"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    texts = (session.name, session.scope, session.model)
    lengths = {len(key) for key in (session.leaf, *session.keys)}
    return session if all(type(text) is str for text in texts) and lengths == {keys.SIZE} else None


def read(namespace: str | Path, now: float) -> Iterator[Session]:
    """All sessions of one namespace's folder. What cannot be read is passed over, with a line in the log."""
    within = f"{namespace}/sessions"
    if os.path.islink(within):
        return
    try:
        names = sorted(os.listdir(within))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if not FILE.fullmatch(name):
            continue
        try:
            file, _ = folder.open_ours(f"{within}/{name}")
            with file:
                session = decode(file.read(FILE_MOST) or b"", now)
        except FileNotFoundError:
            continue  # dropped a moment ago
        except (folder.Foreign, OSError) as error:
            log.warning("prompt cache: a session cannot be read: %s", error)
            continue
        if session is None or session.file != name:
            log.warning("prompt cache: %s/%s is no session of this version", within, name)
            continue
        yield session


# --- without an engine ------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnDisk:
    """A session as found in the cache's folder. nbytes: of its blocks and states there, shared ones too."""

    session: Session
    namespace: Path
    nbytes: int


def on_disk(root: Path, now: float | None = None) -> list[OnDisk]:
    """The sessions of all models under `cache.path`, the most recently used first. Reads all their files."""
    now = time.time() if now is None else now
    found = [
        OnDisk(session, Path(namespace), sum(_size(Path(namespace), key) for key in session.keys))
        for namespace in folder.namespaces(root)
        for session in read(namespace, now)
    ]
    return sorted(found, key=lambda one: -one.session.used_at)


def drop_on_disk(
    root: Path, name: str | None, scope: str | None = None, models: Collection[str] | None = None
) -> list[OnDisk]:
    """Forget sessions and delete their blocks, but for those that another text shares; what was dropped.

    name, scope: None for all. models: only of these; give those that no engine holds, for a running engine
    would write its sessions anew. Reads the header of every block there. Raises OSError.
    """
    dropped = [
        one
        for one in on_disk(root)
        if _meant(one.session, name, scope) and (models is None or one.session.model in models)
    ]
    for namespace in {one.namespace for one in dropped}:
        for one in dropped:
            if one.namespace == namespace:
                folder.remove(f"{namespace}/sessions/{one.session.file}")
        kept = {key for session in read(namespace, time.time()) for key in session.keys}
        tree = _children(namespace)
        for one in dropped:
            if one.namespace == namespace:
                _prune(namespace, one.session, tree, kept)
    return dropped


def _prune(
    namespace: Path, session: Session, tree: dict[bytes, dict[bytes, format.Kind]], kept: Collection[bytes]
) -> None:
    """Delete a session's files from the end of its text, up to where another text parts from it."""
    parents = {child: parent for parent, children in tree.items() for child in children}
    mine = set(session.keys) | {session.leaf}
    kinds = {child: kind for children in tree.values() for child, kind in children.items()}
    for key in (session.leaf, *reversed(session.keys)):
        if kinds.get(key) == "state" and key != session.leaf:
            continue  # goes with its block
        below = tree.get(key, {})
        shared = any(kind == "block" or child not in mine for child, kind in below.items())
        if key in kept or shared:
            continue
        for gone in (*below, key):
            folder.remove(folder.block_path(namespace, gone))
            tree.get(parents.get(gone, b""), {}).pop(gone, None)
        tree.pop(key, None)


def _children(namespace: Path) -> dict[bytes, dict[bytes, format.Kind]]:
    """What follows each block directly."""
    tree: dict[bytes, dict[bytes, format.Kind]] = {}
    for path in folder.blocks(namespace):
        try:
            file, status = folder.open_ours(path)
            with file:
                record = format.read_header(file, status.st_size, namespace.name).record
        except (FileNotFoundError, folder.Foreign, format.Damaged, format.Newer):
            continue
        tree.setdefault(record.parent, {})[record.key] = record.kind
    return tree


def _size(namespace: Path, key: bytes) -> int:
    try:
        return os.lstat(folder.block_path(namespace, key)).st_size
    except FileNotFoundError:
        return 0


def _meant(session: Session, name: str | None, scope: str | None) -> bool:
    return name in (None, session.name) and scope in (None, session.scope)
