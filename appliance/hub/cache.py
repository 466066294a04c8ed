"""The hub's cache layout, as `huggingface_hub` defines it, and the names that may appear in it.

    <cache>/models--org--name/refs/main                  a commit hash
                             /snapshots/<commit>/FILE    a relative symlink to ../../blobs/<etag>
                             /blobs/<etag>               the content; <etag>.incomplete while it is fetched

Names come from YAML, from request bodies and from servers' listings: all are checked here before any
of them becomes a path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# The hub's own rules: one optional owner, then a name; neither starts or ends with '-' or '.'.
_REPO = re.compile(r"(\b[A-Za-z0-9_.-]{1,96}\b/)?\b[A-Za-z0-9_.-]{1,96}\b", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')


class BadName(ValueError):
    """A name that must not become a path or an address. The message says what is wrong."""


@dataclass(frozen=True)
class Wanted:
    """Something to download. revision: a commit, a short commit or a branch; None means `main`.

    code: its Python files too, which run on this machine: only where the spec says `trust_remote_code`.
    """

    repo: str
    revision: str | None = None
    code: bool = False


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where the hub's cache lies, by the same variables and order as the hub's own client."""
    env = os.environ if environment is None else environment
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if env.get(name):
            return _expanded(env[name])
    if env.get("HF_HOME"):
        return _expanded(env["HF_HOME"]) / "hub"
    base = _expanded(env["XDG_CACHE_HOME"]) if env.get("XDG_CACHE_HOME") else Path.home() / ".cache"
    return base / "huggingface" / "hub"


def _expanded(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()


def check_repo(repo: str) -> str:
    if not _REPO.fullmatch(repo) or repo.count("/") > 1:
        raise BadName(f"{repo!r} is not a Hub name: write org/name with letters, digits, '-', '_' and '.'")
    if "--" in repo or ".." in repo or repo.endswith(".git"):
        raise BadName(f"{repo!r} is not a Hub name: '--', '..' and a final '.git' are not allowed in one")
    return repo


def check_revision(revision: str) -> str:
    parts = revision.split("/")
    if not _REVISION.fullmatch(revision) or any(part in ("", ".", "..") for part in parts):
        raise BadName(f"{revision!r} is not a revision: write a commit, or a branch such as main")
    return revision


def check_commit(commit: str) -> str:
    if not _COMMIT.fullmatch(commit):
        raise BadName(f"{commit!r} is not a commit hash")
    return commit


def check_blob(etag: str) -> str:
    """An entity tag becomes a file name: only what hashes are made of."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
        raise BadName(f"{etag!r} is not a content hash")
    return etag


def check_file_name(name: str) -> str:
    """A relative POSIX path below the snapshot, from a listing or an index; else BadName."""
    path = PurePosixPath(name)
    clean = name and not path.is_absolute() and str(path) == name
    if not clean or not path.parts or ".." in path.parts or len(name) > 400 or _UNSAFE.search(name):
        raise BadName(f"the file name {name!r} points outside the model's folder")
    return name


def repo_folder(cache: Path, repo: str) -> Path:
    return cache / f"models--{check_repo(repo).replace('/', '--')}"


def repo_of(folder: str) -> str | None:
    """The repo that a cache folder's name stands for; None for any other name."""
    kind, *parts = folder.split("--")
    repo = "/".join(parts)
    if kind != "models" or not _REPO.fullmatch(repo) or len(parts) > 2:
        return None
    return repo


def snapshot(cache: Path, repo: str, revision: str | None) -> Path | None:
    """That revision's folder, if it is in the cache: by ref, commit, or unambiguous short commit."""
    folder = repo_folder(cache, repo)
    named = check_revision(revision or "main")
    commit = read_ref(folder, named)
    if commit is None and _COMMIT.fullmatch(named):
        commit = named
    if commit is None and _SHORT_COMMIT.fullmatch(named):
        known = [name for name in _listing(folder / "snapshots") if name.startswith(named)]
        commit = known[0] if len(known) == 1 else None
    if commit is None:
        return None
    path = folder / "snapshots" / commit
    return path if path.is_dir() else None


def read_ref(folder: Path, revision: str) -> str | None:
    try:
        text = (folder / "refs" / revision).read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, UnicodeDecodeError):
        return None
    return text if _COMMIT.fullmatch(text) else None


def refs(folder: Path) -> dict[str, str]:
    """Branch or tag name -> commit."""
    root = folder / "refs"
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")) if root.is_dir() else ():
        name = path.relative_to(root).as_posix()
        commit = read_ref(folder, name) if path.is_file() else None
        if commit:
            found[name] = commit
    return found


def _listing(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
