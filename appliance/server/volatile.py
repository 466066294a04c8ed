"""The one line of a prompt that is left out: it changes with every request, and means nothing to a model.

Claude Code begins its system prompt with `x-anthropic-billing-header: ...`, a line whose value differs from
request to request. Everything behind it would have to be computed anew each time. It is taken out where it is
the very beginning of a system message, or a text part of its own in one. Nothing else is ever taken out.
"""

from __future__ import annotations

from collections.abc import Sequence

NAME = "x-anthropic-billing-header"
_BEGIN = f"{NAME}:"


def without(texts: Sequence[str]) -> tuple[str, bool]:
    """A system message's text, from its parts, and whether that line was left out."""
    kept = [text for text in texts if not _alone(text)]
    joined = "".join(kept)
    if joined.startswith(_BEGIN):
        return joined.partition("\n")[2], True
    return joined, len(kept) < len(texts)


def _alone(text: str) -> bool:
    """Whether a part is that line and no more."""
    line, _, rest = text.partition("\n")
    return line.startswith(_BEGIN) and not rest
