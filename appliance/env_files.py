"""A file of environment variables: how secrets reach a service without lying in a file that all may read.

# one to a line, as `NAME=VALUE`; quotes around a value are taken off
LMX_KEYS="sk-one sk-two"
HF_TOKEN=hf_...
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

MOST = 64 * 1024  # bytes

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")


class EnvFileError(ValueError):
    """The file cannot be used. The message says why and what to do, and tells no value."""


def check_private(path: Path) -> None:
    """That it is a plain file which nobody else may read. Raises EnvFileError, and OSError."""
    _check(path, path.stat())


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise EnvFileError(f"{path} is not a plain file")
    if status.st_mode & 0o077:
        raise EnvFileError(f"others may read {path}, and it is for secrets: run `chmod 600 {path}`")


def read(path: Path) -> dict[str, str]:
    """Raises EnvFileError."""
    try:
        with path.open("rb") as file:
            _check(path, os.fstat(file.fileno()))
            data = file.read(MOST + 1)
    except OSError as error:
        raise EnvFileError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MOST:
        raise EnvFileError(f"{path} is over {MOST} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise EnvFileError(f"{path} is not UTF-8 text") from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise EnvFileError(f"{path}:{number}: write it as NAME=VALUE")
        name, value = match[1], match[2].strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        if "\0" in value:
            raise EnvFileError(f"{path}:{number}: a value may hold no zero byte")
        if name in found:
            raise EnvFileError(f"{path}:{number}: {name} is there twice")
        found[name] = value
    return found
