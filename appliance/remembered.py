"""The loop's memory on disk, and what an appliance does when that disk fails: it serves on.

A full or broken disk must not stop the loop, whose work is to keep models answering. The newest
events and the generation in force are therefore also held here, and `trouble` says what cannot be
written.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from reconciler.backoff import Ledger
from reconciler.events import Event
from reconciler.gate import Accepted
from reconciler.history import History
from reconciler.known import Known
from reconciler.observed import OverrideObs

log = logging.getLogger("lmx.state")

RECENT = 50
HISTORY = 20


class Remembered:
    """`loop.Store` over `History`. Every write either happens whole or is reported in `trouble`."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._recent: deque[Event] = deque(history.events(limit=RECENT), maxlen=RECENT)
        self._unstored = 0
        self.trouble: str | None = None

    # --- loop.Store --------------------------------------------------------------------------------

    def add_event(self, event: Event) -> Event:
        stored = event

        def write() -> None:
            nonlocal stored
            stored = self._history.add_event(event)

        if not self._try("an event", write):
            last = self._recent[-1].id if self._recent else 0
            stored = replace(event, id=last + 1)
        self._recent.append(stored)
        return stored

    def save_ledger(self, ledger: Ledger, offset: float) -> None:
        self._try("failure counters", lambda: self._history.save_ledger(ledger, offset))

    def save_overrides(self, overrides: tuple[OverrideObs, ...]) -> None:
        self._try("overrides", lambda: self._history.save_overrides(overrides))

    def accepted(self, accepted: Accepted, at: float) -> None:
        self._try("the new generation", lambda: self._history.accepted(accepted, at))

    def applied(self, generation: int, at: float) -> None:
        self._try("the last-known-good", lambda: self._history.applied(generation, at))

    def known(self, known: Known) -> None:
        self._try("which forms are known to run", lambda: self._history.save_known(known))

    def prune(self, older_than: float) -> None:
        self._try("the pruning of events", lambda: self._history.prune(older_than))

    def _try(self, what: str, write: Callable[[], object]) -> bool:
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
        return [event.as_dict() for event in self._recent]

    def past(self, after: int) -> list[dict[str, Any]]:
        """Events above this id: from disk, or from memory where the disk fails."""
        try:
            return [event.as_dict() for event in self._history.events(after, limit=1000)]
        except (sqlite3.Error, OSError) as error:
            log.error("events cannot be read from %s: %s", self._history.path, error)
            return [event.as_dict() for event in self._recent if event.id > after]

    def history(self) -> list[dict[str, Any]]:
        """The newest generations, newest first."""
        try:
            found = self._history.generations(HISTORY)
        except (sqlite3.Error, OSError) as error:
            log.error("generations cannot be read from %s: %s", self._history.path, error)
            return []
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
