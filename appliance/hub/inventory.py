"""Which models lie complete in the hub's cache, whoever put them there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from appliance.hub.cache import cache_folder, refs, repo_of
from appliance.hub.files import check_folder


@dataclass(frozen=True)
class CachedModel:
    """One downloaded revision. refs: the branches and tags that point at it here. Sizes in bytes."""

    repo: str
    commit: str
    path: str
    refs: tuple[str, ...]
    size_bytes: int  # all files of this revision on disk
    weights_bytes: int
    parameters: int
    model_type: str
    modified: float  # seconds since the epoch: the newest file


def inventory(cache: Path | None = None) -> list[CachedModel]:
    """Every complete, loadable model revision in the cache, by repo. What cannot be read is left out."""
    root = cache or cache_folder()
    found: list[CachedModel] = []
    try:
        folders = sorted(os.scandir(root), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    for folder in folders:
        repo = repo_of(folder.name)
        if repo is not None and folder.is_dir():
            found += _revisions(Path(folder.path), repo, root)
    return found


def _revisions(folder: Path, repo: str, cache: Path) -> list[CachedModel]:
    snapshots = folder / "snapshots"
    try:
        commits = sorted(os.listdir(snapshots))
        named = refs(folder)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    found = []
    for commit in commits:
        checked = check_folder(snapshots / commit, inside=cache)
        if checked.problem is not None or checked.config is None:
            continue
        sizes = [path.stat() for path in (snapshots / commit).rglob("*") if path.is_file()]
        found.append(
            CachedModel(
                repo=repo,
                commit=commit,
                path=str(snapshots / commit),
                refs=tuple(sorted(name for name, at in named.items() if at == commit)),
                size_bytes=sum(info.st_size for info in sizes),
                weights_bytes=checked.weights_bytes,
                parameters=checked.parameters,
                model_type=str(checked.config.get("model_type")),
                modified=max((info.st_mtime for info in sizes), default=0.0),
            )
        )
    return found
