"""What an edit that waits would change: its text against last-known-good."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from reconciler.gate import Accepted, Gate

MOST = 200  # lines


@dataclass(frozen=True)
class Pending:
    """what: became of it, in a word or two. lines: of a unified diff."""

    what: str
    lines: tuple[str, ...] = ()


NOTHING = Pending("")


def pending(gate: Gate, good: Accepted | None) -> Pending:
    """good: the newest text that reached Ready. NOTHING where no edit waits, or nothing was ever good."""
    attempt, accepted = gate.attempt, gate.accepted
    base = good or accepted
    if base is None or attempt is None or accepted is None:
        return NOTHING
    if attempt.outcome == "rejected":
        return Pending("refused", _lines(base.text, attempt.text))
    if accepted.text != base.text:
        return Pending("accepted, not carried out", _lines(base.text, accepted.text))
    return NOTHING


def _lines(old: bytes, new: bytes) -> tuple[str, ...]:
    before, after = (text.decode("utf-8", "replace").splitlines() for text in (old, new))
    lines = list(difflib.unified_diff(before, after, "last-known-good", "edit", lineterm=""))
    rest = len(lines) - MOST
    return (*lines[:MOST], f"... and {rest} more lines") if rest > 0 else tuple(lines)
