"""A chat template of the operator's own: `models.*.template.file`.

Looked at in every pass of the loop, so it is read again only when its stat signature has changed. Whether it
is a good template the engine finds out, which renders a chat with it before the model takes traffic.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

LARGEST = 1024 * 1024  # bytes; the longest published one is a thirtieth of it
_REMEMBERED = 64

Signature = tuple[int, int, int]


class BadTemplate(Exception):
    """The file cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Found:
    """problem: why there is no text."""

    text: str = ""
    problem: str | None = None

    @property
    def digest(self) -> str:
        return digest(self.text)


_seen: dict[Path, tuple[Signature, Found]] = {}  # the latest looks, oldest first


def digest(text: str | None) -> str:
    """What tells two templates apart; "" where there is none of the operator's own."""
    return "" if text is None else hashlib.sha256(text.encode()).hexdigest()[:16]


def look(file: str, base: Path) -> Found:
    """The template in `file`, relative to `base`. Never raises for what users can get wrong."""
    path = Path(os.path.normpath(base / Path(file).expanduser()))
    try:
        info = path.stat()
    except OSError as error:
        return Found(problem=f"template.file: {path}: {error.strerror}; give the path of a Jinja template")
    signature = (info.st_size, info.st_mtime_ns, info.st_ino)
    known = _seen.pop(path, None)
    if known is None or known[0] != signature:
        known = signature, _read(path, info)
    _seen[path] = known
    while len(_seen) > _REMEMBERED:
        del _seen[next(iter(_seen))]
    return known[1]


def read(file: str | None, base: Path) -> str | None:
    """The text, or None where no file is named. Raises BadTemplate."""
    if file is None:
        return None
    found = look(file, base)
    if found.problem is not None:
        raise BadTemplate(found.problem)
    return found.text


def _read(path: Path, info: os.stat_result) -> Found:
    if not stat.S_ISREG(info.st_mode):
        return Found(problem=f"template.file: {path} is not a file; give the path of a Jinja template")
    if info.st_size > LARGEST:
        return Found(problem=f"template.file: {path} has {info.st_size} bytes; at most {LARGEST} are read")
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)  # it may have grown since
    except OSError as error:
        return Found(problem=f"template.file: {path}: {error.strerror}; let LMX read it")
    if len(data) > LARGEST:
        return Found(problem=f"template.file: {path} is over {LARGEST} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return Found(problem=f"template.file: {path} is not UTF-8: {error.reason} at byte {error.start}")
    if not text.strip():
        return Found(problem=f"template.file: {path} is empty")
    return Found(text)
