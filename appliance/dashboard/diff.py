"""What a refused edit would have changed: the file as it is against the text that is served."""

from __future__ import annotations

import difflib

from reconciler.gate import Gate

MOST = 200  # lines


def pending_diff(gate: Gate) -> list[str]:
    """Lines of a unified diff; none where no edit is refused, or nothing was ever accepted."""
    attempt, accepted = gate.attempt, gate.accepted
    if attempt is None or accepted is None or attempt.outcome != "rejected":
        return []
    before, after = (text.decode("utf-8", "replace").splitlines() for text in (accepted.text, attempt.text))
    lines = list(difflib.unified_diff(before, after, "served", "refused", lineterm=""))
    rest = len(lines) - MOST
    return [*lines[:MOST], f"... and {rest} more lines"] if rest > 0 else lines
