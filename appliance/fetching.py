"""Downloads of declared models: started by the loop, shown in what it observes, retried with back-off.

The loop knows a model's files by the digest of its form; the hub knows repos. A download that failed for
a passing reason is begun again by itself, later each time; one that cannot succeed (no such repo,
gated, no room) makes the files `broken` with the reason, until `retry_all` or an edit.

A hub that does not answer is left alone by a circuit breaker: while that is open, downloads stand still
(what has arrived is kept), say so, and one of them is let through when its pause is over.

People pull too (`hold`): beside the loop, of the same files by the same child process, whoever came first.
When the last of them has let go, the download ends unless the loop wants it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from appliance.breakers import Breaker, Breakers, Open
from appliance.hub.cache import Wanted
from appliance.hub.downloads import Download, DownloadError, Downloads
from reconciler.backoff import delay
from reconciler.observed import ModelFiles

HUB = "hub"
_PULL = "pull "  # before a digest: the key under which people hold a download


@dataclass
class _Fetch:
    """refused: it stands still because the hub is left alone, in words. trial: it is the one let through."""

    wanted: Sequence[Wanted]
    failures: int = 0
    retry: asyncio.TimerHandle | None = None
    refused: str | None = None
    trial: bool = False


@dataclass
class _Pull:
    """holders: how many people wait. trial: it is the one that the breaker lets through."""

    holders: int = 0
    trial: bool = False
    refused: str | None = None


class Fetching:
    """By digest. on_change: progress, an end, a retry; it must only note that."""

    def __init__(
        self,
        on_change: Callable[[], None],
        breakers: Breakers,
        *,
        environment: Mapping[str, str] | None = None,
        first_pause: float | None = None,
    ) -> None:
        self._downloads = Downloads(
            on_change=self._changed, environment=environment, on_hub=self._heard, first_pause=first_pause
        )
        self._on_change = on_change
        self._fetches: dict[str, _Fetch] = {}
        self._pulls: dict[str, _Pull] = {}
        self._news = asyncio.Event()  # set, and a new one made, whenever something changed
        self._breaker: Breaker = breakers.get(HUB)
        self._again: asyncio.TimerHandle | None = None  # when the breaker lets one through

    def overlay(self, digest: str, found: ModelFiles) -> ModelFiles:
        """What lies on disk, with what is under way on top."""
        if found.state == "present":
            self._forget(digest)
            return found
        fetch = self._fetches.get(digest)
        if found.state == "absent" and fetch is None and digest in self._pulls:
            view = self.pulled(digest)
            if view.state == "downloading":
                progress = (view.done, view.total)
                return replace(
                    found, state="downloading", progress=progress, message=view.note or None, asked=True
                )
        if found.state != "absent" or fetch is None:
            return found
        if fetch.refused is not None:
            return replace(found, state="downloading", message=fetch.refused)
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
        """Begin anew what failed or stands still: what `lmx reconcile` asks for."""
        self._breaker.retry()
        views = self._downloads.observe()
        for digest, fetch in self._fetches.items():
            if fetch.refused is not None or views.get(digest, Download()).state == "failed":
                fetch.failures = 0
                self._begin(digest)

    # --- people ------------------------------------------------------------------------------------

    @contextmanager
    def hold(self, digest: str, wanted: Sequence[Wanted]) -> Iterator[None]:
        """Have these files downloaded while the block runs, or join the download that is under way.

        Raises Open where the hub is left alone and another try is out already.
        """
        pull = self._pulls.get(digest)
        if pull is None or pull.refused is not None or self.pulled(digest).state != "downloading":
            self._breaker.retry()  # a person asks
            trying = self._breaker.state != "closed"
            self._breaker.enter()
            holders = 0 if pull is None else pull.holders
            pull = self._pulls[digest] = _Pull(holders, trial=trying)
            for what in wanted:
                self._downloads.start(_PULL + digest, what.repo, what.revision, allow_code=what.code)
        pull.holders += 1
        self._changed()
        try:
            yield
        finally:
            self._let_go(digest)

    def pulled(self, digest: str) -> Download:
        """What became of the download that people hold."""
        pull = self._pulls.get(digest)
        if pull is not None and pull.refused is not None:
            return Download(state="failed", error=DownloadError("network", pull.refused))
        return self._downloads.observe().get(_PULL + digest, Download(state="cancelled"))

    @property
    def news(self) -> asyncio.Event:
        """Set at the next change. Take it before you look: what changes in between is not missed then."""
        return self._news

    def _let_go(self, digest: str) -> None:
        pull = self._pulls[digest]
        pull.holders -= 1
        if pull.holders:
            return
        del self._pulls[digest]
        self._downloads.cancel(_PULL + digest)
        self._trial_over(pull)
        self._changed()

    async def close(self) -> None:
        for digest in list(self._fetches):
            self._forget(digest)
        if self._again is not None:
            self._again.cancel()
            self._again = None
        await self._downloads.close()

    def _begin(self, digest: str) -> None:
        fetch = self._fetches[digest]
        if fetch.retry is not None:
            fetch.retry.cancel()
            fetch.retry = None
        trying = self._breaker.state != "closed"
        try:
            self._breaker.enter()
        except Open as error:
            fetch.refused = error.message
            self._look_again(error.retry_in)
            return
        fetch.refused, fetch.trial = None, trying
        for wanted in fetch.wanted:
            self._downloads.start(digest, wanted.repo, wanted.revision, allow_code=wanted.code)

    def _forget(self, digest: str) -> None:
        fetch = self._fetches.pop(digest, None)
        if fetch is None:
            return
        if fetch.retry is not None:
            fetch.retry.cancel()
        self._downloads.cancel(digest)
        self._trial_over(fetch)

    def _changed(self) -> None:
        views = self._downloads.observe()
        for digest, fetch in self._fetches.items():
            view = views.get(digest)
            if view is None or view.state != "failed" or fetch.retry is not None:
                continue
            if view.error is not None and not view.error.permanent and fetch.refused is None:
                self._trial_over(fetch)
                fetch.failures += 1
                fetch.retry = asyncio.get_running_loop().call_later(
                    delay(digest, fetch.failures), self._begin, digest
                )
        self._news.set()
        self._news = asyncio.Event()
        self._on_change()

    # --- the breaker ------------------------------------------------------------------------------

    def _heard(self, what: Wanted, why: str | None) -> None:
        """The hub answered somebody, or failed somebody once more."""
        before = self._breaker.state
        if why is None:
            self._breaker.succeeded()
        else:
            self._breaker.failed(why)
        now = self._breaker.state
        if now == before:
            return
        if now == "open":
            tries: list[_Fetch | _Pull] = [*self._fetches.values(), *self._pulls.values()]
            for one in tries:
                one.trial = False  # it has failed
        # Not at once: a download is speaking just now, and is about to be stopped.
        running = asyncio.get_running_loop()
        running.call_soon(self._stand_still if now == "open" else self._go_on)

    def _stand_still(self) -> None:
        """All but the one that was let through since the breaker opened, if a person was that quick."""
        views = self._downloads.observe()
        for digest, fetch in self._fetches.items():
            view = views.get(digest, Download())
            if fetch.trial or view.state == "done" or (view.error is not None and view.error.permanent):
                continue
            self._downloads.cancel(digest)
            self._begin(digest)
        for digest, pull in self._pulls.items():
            if not pull.trial and self.pulled(digest).state == "downloading":
                pull.refused = self._breaker.view().why
                self._downloads.cancel(_PULL + digest)
        self._changed()

    def _go_on(self) -> None:
        """Those that stand still: all of them, or as many as the breaker lets through."""
        self._again = None
        for digest, fetch in self._fetches.items():
            fetch.trial = fetch.trial and self._breaker.state != "closed"
            if fetch.refused is not None:
                self._begin(digest)
        self._on_change()

    def _look_again(self, seconds: float) -> None:
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(seconds + 0.05, self._go_on)

    def _trial_over(self, fetch: _Fetch | _Pull) -> None:
        """It ended without a word about the hub: the next may try."""
        if fetch.trial:
            fetch.trial = False
            self._breaker.left()
            if self._breaker.state == "half_open":
                self._look_again(0.0)
