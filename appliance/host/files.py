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


def value(content: str, key: str) -> int | None:
    """The first number of the line that begins with `key`, the sign behind the name included: `pswpout `,
    `MemTotal:`. None where there is none.

    By search, and not by taking it all apart: these are kilobytes, several times a second, for ever.
    """
    _, _, rest = f"\n{content}".partition(f"\n{key}")
    words = rest[:80].partition("\n")[0].split(None, 1)
    return number(words[0]) if words else None
