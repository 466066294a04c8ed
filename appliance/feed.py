"""Events and telemetry to whoever watches, without ever waiting for a watcher.

Each subscriber has a bounded queue. One that does not keep up is ended, so that it connects again
and asks for what it missed with Last-Event-ID, instead of growing memory here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

BACKLOG = 512


class _Subscriber:
    def __init__(self) -> None:
        self.pending: deque[dict[str, Any]] = deque()
        self.ready = asyncio.Event()
        self.ended = False


class Feed:
    """past(after) gives stored events with an id above `after`, oldest first."""

    def __init__(self, past: Callable[[int], list[dict[str, Any]]]) -> None:
        self._past = past
        self._subscribers: set[_Subscriber] = set()

    @property
    def watched(self) -> bool:
        return bool(self._subscribers)

    def publish(self, item: dict[str, Any]) -> None:
        for subscriber in list(self._subscribers):
            if len(subscriber.pending) >= BACKLOG:
                subscriber.ended = True
                self._subscribers.discard(subscriber)
            else:
                subscriber.pending.append(item)
            subscriber.ready.set()

    async def follow(self, after: int | None) -> AsyncIterator[dict[str, Any]]:
        """Stored events above `after` (none for None), then everything as it comes."""
        subscriber = _Subscriber()
        self._subscribers.add(subscriber)  # first, so that nothing falls between past and present
        try:
            last = after if after is not None else 0
            if after is not None:
                for item in self._past(after):
                    last = max(last, int(item["id"]))
                    yield item
            while True:
                while subscriber.pending:
                    item = subscriber.pending.popleft()
                    if after is None or "id" not in item or int(item["id"]) > last:
                        yield item
                if subscriber.ended:
                    return
                subscriber.ready.clear()
                await subscriber.ready.wait()
        finally:
            self._subscribers.discard(subscriber)
