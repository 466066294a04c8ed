"""The edit that makes a file say something else, as a unified diff. LMX never writes the file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import lru_cache

from reconciler.loader import layers

COMPARED = 2_000  # lines of a file: comparing longer ones may take minutes, and any file may be sent


@lru_cache(maxsize=2)  # it is asked for again and again while a spec is tried
def edit(now: bytes, wanted: bytes, name: str) -> tuple[str, ...]:
    """Lines of a diff that `patch` takes, file by file where a spec is made of several. None where equal.

    name: of a plain file. A text that cannot be taken apart counts as one file.
    """
    before, after = _files(now, name), _files(wanted, name)
    if len(before) == 1 or len(after) == 1:  # one is a whole: it stands for the topmost file of the other
        top = list(before)[-1]
        before, after = {top: before[top]}, {top: list(after.values())[-1]}
    lines: list[str] = []
    for one in [*before, *(other for other in after if other not in before)]:
        lines += _diff(_lines(before.get(one, b"")), _lines(after.get(one, b"")), one)
    return tuple(lines)


def _diff(now: list[str], wanted: list[str], name: str) -> Iterable[str]:
    if now == wanted:
        return []
    if max(len(now), len(wanted)) <= COMPARED:
        return difflib.unified_diff(now, wanted, name, name, lineterm="")
    place = f"@@ -{min(1, len(now))},{len(now)} +{min(1, len(wanted))},{len(wanted)} @@"
    return [f"--- {name}", f"+++ {name}", place, *(f"-{x}" for x in now), *(f"+{x}" for x in wanted)]


def _files(content: bytes, name: str) -> dict[str, bytes]:
    try:
        found = layers.unpack(content, name)
    except (ValueError, KeyError, TypeError):
        return {name: content}
    return {layer.name or name: layer.data for layer in found}


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", "replace").splitlines()
