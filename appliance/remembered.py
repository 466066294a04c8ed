"""The loop's memory on disk, and what an appliance does when that disk fails: it serves on.

A full or broken disk must not stop the loop, whose work is to keep models answering. The newest
events and the generation in force are therefore also held here, and `trouble` says what cannot be
written.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from appliance.errors import ApiError
from reconciler.backoff import Ledger
from reconciler.events import Event, EventType
from reconciler.gate import Accepted
from reconciler.history import AT_ONCE, Generation, History
from reconciler.known import Known
from reconciler.observed import OverrideObs

log = logging.getLogger("lmx.state")

RECENT = 50
STORM = 50  # events of one type that are written down between two calls of `sum_up`
HISTORY = 20


class Remembered:
    """`loop.Store` over `History`. Every write either happens whole or is reported in `trouble`."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._recent: deque[dict[str, Any]] = deque(
            (event.as_dict() for event in history.events(limit=RECENT)), maxlen=RECENT
        )
        self._generations: list[dict[str, Any]] | None = None  # until one changes
        self._counts: Counter[EventType] = Counter()
        self._unstored = 0
        self.sealed = False  # another LMX writes now: what happens here is kept in memory only
        self.trouble: str | None = None

    # --- loop.Store --------------------------------------------------------------------------------

    def add_event(self, event: Event) -> Event:
        """With its id. Of a storm of one type the rest is only counted, see `sum_up`."""
        self._counts[event.type] += 1
        if self._counts[event.type] > STORM:
            return replace(event, kept=False)
        stored = event

        def write() -> None:
            nonlocal stored
            stored = self._history.add_event(event)

        if not self._try("an event", write):
            last = self._recent[-1]["id"] if self._recent else 0
            stored = replace(event, id=last + 1)
        self._recent.append(stored.as_dict())
        return stored

    def sum_up(self) -> dict[EventType, int]:
        """How many of each type were not written down since the last call; to be called each second."""
        left = {kind: count - STORM for kind, count in self._counts.items() if count > STORM}
        self._counts.clear()
        return left

    def save_ledger(self, ledger: Ledger, offset: float) -> None:
        self._try("failure counters", lambda: self._history.save_ledger(ledger, offset))

    def save_overrides(self, overrides: tuple[OverrideObs, ...]) -> None:
        self._try("overrides", lambda: self._history.save_overrides(overrides))

    def accepted(self, accepted: Accepted, at: float) -> None:
        self._generations = None
        self._try("the new generation", lambda: self._history.accepted(accepted, at))

    def applied(self, generation: int, at: float) -> None:
        self._generations = None
        self._try("the last-known-good", lambda: self._history.applied(generation, at))

    def known(self, known: Known) -> None:
        self._try("which forms are known to run", lambda: self._history.save_known(known))

    def prune(self, older_than: float) -> bool:
        """Delete some of what is too old or too much. Whether there may be more."""
        count = 0

        def delete() -> None:
            nonlocal count
            count = self._history.prune(older_than)

        self._generations = None
        return self._try("the pruning of events", delete) and count >= AT_ONCE

    def reread(self) -> None:
        """The history is another one than before."""
        self._recent.clear()
        self._recent.extend(event.as_dict() for event in self._history.events(limit=RECENT))
        self._generations = None

    def _try(self, what: str, write: Callable[[], object]) -> bool:
        if self.sealed:
            return False
        try:
            write()
        except (sqlite3.Error, OSError) as error:
            if self.trouble is None:
                log.error("%s cannot be written to %s: %s", what, self._history.path, error)
            self.trouble = f"{what} cannot be written to {self._history.path}: {error}"
            return False
        if self.trouble is not None:
            log.info("%s can be written again", self._history.path)
            self.trouble = None
        return True

    # --- for status --------------------------------------------------------------------------------

    def recent(self) -> list[dict[str, Any]]:
        """The newest events, oldest first."""
        return list(self._recent)

    def past(self, after: int) -> list[dict[str, Any]]:
        """Events above this id: from disk, or from memory where the disk fails."""
        try:
            return [event.as_dict() for event in self._history.events(after, limit=1000)]
        except (sqlite3.Error, OSError) as error:
            log.error("events cannot be read from %s: %s", self._history.path, error)
            return [event for event in self._recent if event["id"] > after]

    def history(self) -> list[dict[str, Any]]:
        """The newest generations, newest first. Read from disk when they have changed, not for each look."""
        if self._generations is None:
            self._generations = self._read_generations()
        return self._generations or []

    def generation(self, number: int) -> Generation | None:
        """One of those that are kept. Raises ApiError where the disk fails."""
        try:
            return self._history.generation(number)
        except (sqlite3.Error, OSError) as error:
            text = f"the history in {self._history.path} cannot be read: {error}"
            raise ApiError("internal_error", text) from error

    def _read_generations(self) -> list[dict[str, Any]] | None:
        try:
            found = self._history.generations(HISTORY)
        except (sqlite3.Error, OSError) as error:
            log.error("generations cannot be read from %s: %s", self._history.path, error)
            return None
        return [
            {
                "generation": g.generation,
                "digest": g.digest,
                "content_digest": g.content_digest,
                "at": g.at,
                "applied_at": g.applied_at,
            }
            for g in found
        ]
