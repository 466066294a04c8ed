"""What conditions tell of the source: is it ready, is it signed, is what runs the newest? Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from reconciler.source_view import SourceView, Trouble

Verdict = tuple[Literal["True", "False", "Unknown"], str, str]


def ready(source: SourceView | None, unreadable: str | None) -> Verdict:
    """unreadable: why the local file cannot be read."""
    if unreadable is not None:
        return "False", "SourceUnreadable", unreadable
    if source is None or source.kind == "file":
        return "True", "SourceRead", ""
    if source.failed is not None:
        kept = f"; {source.revision[:12]} runs on" if source.revision else "; the local file alone is served"
        return "False", source.failed.reason, f"{_since(source.failed)}{kept}"
    if source.refused is not None:
        return "False", source.refused.reason, source.refused.message
    if source.last_checked is None:
        return "Unknown", "NotLooked", f"{source.url} has not answered yet"
    return "True", "Followed", f"{source.ref} of {source.url} is at {(source.head or '')[:12]}"


def verified(source: SourceView | None) -> Verdict:
    """About the newest commit that was seen, else about what runs."""
    if source is None or source.kind == "file":
        return "Unknown", "LocalFile", "a local file carries no signature"
    if not source.asks_signature:
        return "Unknown", "NotAsked", "git.verify is null: signatures are not checked"
    if source.refused is not None and source.refused.reason == "NotVerified":
        return "False", "NotVerified", source.refused.message
    if source.verified is None:
        return "Unknown", "NothingTaken", "no commit was taken yet"
    if not source.verified:
        return (
            "False",
            "NotVerified",
            f"{(source.revision or '')[:12]} runs and is not signed by a known signer",
        )
    return "True", "Verified", f"{(source.revision or '')[:12]} is signed by {source.signer}"


def behind(source: SourceView | None) -> tuple[str, str] | None:
    """Reason and message where what runs is not the newest that was seen; None: it is, or is a local file.

    A remote that does not answer alone says nothing: what was seen last is what runs.
    """
    if source is None or source.kind == "file":
        return None
    if source.refused is not None:
        return source.refused.reason, f"the newest commit is not what runs: {source.refused.message}"
    if source.revision is None:
        why = _since(source.failed) if source.failed is not None else "it has not answered yet"
        return "NothingFetched", f"no commit of {source.url} was taken: {why}"
    return None


def _since(trouble: Trouble) -> str:
    at = datetime.fromtimestamp(trouble.since, UTC)
    return f"since {at:%Y-%m-%dT%H:%M:%SZ}: {trouble.message}"
