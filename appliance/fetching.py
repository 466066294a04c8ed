"""Downloads of declared models: started by the loop, shown in what it observes, retried with back-off.

The loop knows a model's files by the digest of its form; the hub knows repos. A download that failed for
a passing reason is begun again by itself, later each time; one that cannot succeed (no such repo,
gated, no room) makes the files `broken` with the reason, until `retry_all` or an edit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from appliance.hub.cache import Wanted
from appliance.hub.downloads import Download, Downloads
from reconciler.backoff import delay
from reconciler.observed import ModelFiles


@dataclass
class _Fetch:
    wanted: Sequence[Wanted]
    failures: int = 0
    retry: asyncio.TimerHandle | None = None


class Fetching:
    """By digest. on_change: progress, an end, a retry; it must only note that."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._downloads = Downloads(on_change=self._changed)
        self._on_change = on_change
        self._fetches: dict[str, _Fetch] = {}

    def overlay(self, digest: str, found: ModelFiles) -> ModelFiles:
        """What lies on disk, with what is under way on top."""
        if found.state == "present":
            self._forget(digest)
            return found
        fetch = self._fetches.get(digest)
        if found.state != "absent" or fetch is None:
            return found
        view = self._downloads.observe().get(digest, Download(state="cancelled"))
        if view.state == "failed" and view.error is not None and view.error.permanent:
            return replace(found, state="broken", message=view.error.message, permanent=True)
        return replace(
            found,
            state="downloading",
            progress=(view.done, view.total),
            message=view.error.message if view.error is not None else view.note or None,
        )

    def start(self, digest: str, wanted: Sequence[Wanted]) -> None:
        self._forget(digest)
        self._fetches[digest] = _Fetch(wanted)
        self._begin(digest)

    def cancel(self, digest: str) -> None:
        self._forget(digest)
        self._on_change()

    def retry_all(self) -> None:
        """Begin anew what failed: what `lmx reconcile` asks for."""
        views = self._downloads.observe()
        for digest, fetch in self._fetches.items():
            if views.get(digest, Download()).state == "failed":
                fetch.failures = 0
                self._begin(digest)

    async def close(self) -> None:
        for digest in list(self._fetches):
            self._forget(digest)
        await self._downloads.close()

    def _begin(self, digest: str) -> None:
        fetch = self._fetches[digest]
        if fetch.retry is not None:
            fetch.retry.cancel()
            fetch.retry = None
        for wanted in fetch.wanted:
            self._downloads.start(digest, wanted.repo, wanted.revision)

    def _forget(self, digest: str) -> None:
        fetch = self._fetches.pop(digest, None)
        if fetch is None:
            return
        if fetch.retry is not None:
            fetch.retry.cancel()
        self._downloads.cancel(digest)

    def _changed(self) -> None:
        views = self._downloads.observe()
        for digest, fetch in self._fetches.items():
            view = views.get(digest)
            if view is None or view.state != "failed" or fetch.retry is not None:
                continue
            if view.error is not None and not view.error.permanent:
                fetch.failures += 1
                fetch.retry = asyncio.get_running_loop().call_later(
                    delay(digest, fetch.failures), self._begin, digest
                )
        self._on_change()
