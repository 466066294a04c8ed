"""The edit that makes a file say something else, as a unified diff. LMX never writes the file."""

from __future__ import annotations

import difflib

from reconciler.loader import layers

MOST = 2_000  # lines


def edit(now: bytes, wanted: bytes, name: str) -> list[str]:
    """Lines of a diff that `patch` takes, file by file where a spec is made of several. [] where equal.

    name: of a plain file. A text that cannot be taken apart counts as one file.
    """
    before, after = _files(now, name), _files(wanted, name)
    if len(before) == 1 or len(after) == 1:  # one is a whole: it stands for the topmost file of the other
        top = list(before)[-1]
        before, after = {top: before[top]}, {top: list(after.values())[-1]}
    lines: list[str] = []
    for one in [*before, *(other for other in after if other not in before)]:
        lines += difflib.unified_diff(
            _lines(before.get(one, b"")), _lines(after.get(one, b"")), one, one, lineterm=""
        )
    rest = len(lines) - MOST
    return [*lines[:MOST], f"... and {rest} more lines"] if rest > 0 else lines


def _files(content: bytes, name: str) -> dict[str, bytes]:
    try:
        found = layers.unpack(content, name)
    except (ValueError, KeyError, TypeError):
        return {name: content}
    return {layer.name or name: layer.data for layer in found}


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", "replace").splitlines()
