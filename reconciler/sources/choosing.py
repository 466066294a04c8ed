"""Which commit to run, of those that lie between what runs and the head of the branch: pure.

    head ─▶ is it what runs? ─▶ does it come after what runs? ─▶ newest acceptable of the line up to it
              │ yes: stay            │ no: refused, unless rewriting is allowed     │ none: stay

The line is the head and its first parents, back to what runs: the heads that the branch had, and not what
was merged into it. Each is judged alone (signed, permitted, valid), the newest first, and the first that
stands is taken. So the outcome is a fact of the repository: forty machines that looked at forty different
moments, one of them switched off meanwhile, end on the same commit. Where the head itself is refused, that
is told, also when a commit before it was taken. Never is one taken that lies behind what runs.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

MOST = 64  # commits of the line that are judged: a branch with more bad ones in a row is left to a person

Relation = Literal["same", "after", "elsewhere"]


@dataclass(frozen=True)
class Refusal:
    """Why a commit may not run. reason: in CamelCase, for conditions. content: what it says, if read."""

    commit: str
    reason: str
    message: str
    content: bytes = b""


@dataclass(frozen=True)
class Choice:
    """take: the commit to run from now on; None: what runs stays. refused: of the head, if it is."""

    take: str | None
    refused: Refusal | None = None


Judging = Generator[str, Refusal | None, Choice]


def choose(
    current: str | None, relation: Relation, line: Sequence[str], *, fast_forward_only: bool
) -> Judging:
    """A generator that yields each commit to be judged, is sent the refusal or None, and returns the choice.

    current: what runs, None at the very first. relation: of the head to it. line: the head, then its first
    parents that come after what runs, newest first.
    """
    head = line[0]
    if relation == "same":
        return Choice(None)
    if current is not None and relation == "elsewhere" and fast_forward_only:
        return Choice(
            None,
            Refusal(
                head,
                "NotFastForward",
                f"the branch was rewritten: {head[:12]} does not come after {current[:12]}, which runs; put "
                "the branch back and commit on top of it, or set git.fast_forward_only to false",
            ),
        )
    first = None
    for commit in line[:MOST]:
        refusal = yield commit
        if refusal is None:
            return Choice(commit, first)
        first = first or refusal
    return Choice(None, first)
