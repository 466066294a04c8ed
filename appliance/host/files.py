"""Small files of /proc and /sys: read whole, and read without trust. Nothing in them raises."""

from __future__ import annotations

import os


def text(path: str) -> str:
    """ "" where there is no such file, or it cannot be read: many are there and answer with an error."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):  # ValueError: a path made of garbage
        return ""
    try:
        parts = []
        while part := os.read(handle, 65536):  # one read of /proc gives a page, however much is asked for
            parts.append(part)
    except OSError:
        return ""
    finally:
        os.close(handle)
    return b"".join(parts).decode("ascii", "replace")


def number(word: str) -> int | None:
    """A decimal number as the kernel writes it, or None. Longer ones than the kernel has are none."""
    word = word.strip()
    digits = word.removeprefix("-")
    return int(word) if digits.isascii() and digits.isdecimal() and len(digits) <= 20 else None


def table(content: str) -> dict[str, int]:
    """Lines of `name number`, `name: number kB`: the first number of each, by name. Others are left out."""
    found = {}
    for line in content.splitlines():
        words = line.split()
        if len(words) >= 2 and (value := number(words[1])) is not None:
            found[words[0].rstrip(":")] = value
    return found
