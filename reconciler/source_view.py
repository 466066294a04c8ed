"""What status and conditions tell of where the spec comes from. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Trouble:
    """reason: in CamelCase. since: wall clock, seconds."""

    reason: str
    message: str
    since: float


@dataclass(frozen=True)
class SourceView:
    """One local file, or a Git repository followed.

    path: of the file; in the repository for git. revision: the commit that runs. head: the newest commit
    that was seen. verified: whether `revision` is signed by one of the signers; None: nobody asked.
    last_checked: when the source last answered, wall clock, seconds; None: never.
    failed: the source cannot be asked; what runs goes on. refused: the head is not taken; why.
    looks: how many ended unchanged, taken, refused, failed.
    """

    kind: Literal["file", "git"]
    path: str
    revision: str | None = None
    head: str | None = None
    url: str | None = None
    ref: str | None = None
    verified: bool | None = None
    signer: str | None = None
    asks_signature: bool = False
    last_checked: float | None = None
    failed: Trouble | None = None
    refused: Trouble | None = None
    looks: tuple[tuple[str, int], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The `source` of the status document."""
        found: dict[str, Any] = {
            "kind": self.kind,
            "path": self.path,
            "revision": self.revision,
            "verified": self.verified,
            "last_checked": self.last_checked,
        }
        if self.kind == "git":
            found |= {"url": self.url, "ref": self.ref, "head": self.head, "signer": self.signer}
        return found
