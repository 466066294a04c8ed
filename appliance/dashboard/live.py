"""The page as it changes: one rendering a second, and one frame of bytes for all who look.

A frame is a Server-Sent Event of type `page`. Its data: `at`, wall clock in seconds; `title`; `summary`;
`parts`, markup by name; and in a whole one `build`, which changes with the page's own files. What a reader
misses while it is slow is made good by a whole frame, so nothing waits here for anybody.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable

import msgspec

from appliance.dashboard.render import build, page, parts, same, title
from appliance.dashboard.view import View

FRESH_S = 1.0


class Live:
    """make: the view as it is now."""

    def __init__(self, make: Callable[[], View], clock: Callable[[], float] = time.monotonic) -> None:
        self._make, self._clock = make, clock
        self._parts: dict[str, str] = {}
        self._view: View | None = None
        self._made_at = -FRESH_S
        self._number = 0  # of the newest rendering
        self._delta = b""  # from the one before to it
        self._whole: bytes | None = None
        self._page: tuple[bytes, str] | None = None
        self._changed = asyncio.Event()
        self._followers = 0

    @property
    def followers(self) -> int:
        return self._followers

    def tick(self) -> None:
        """Once a second: render, where somebody looks."""
        if self._followers:
            self._render()

    def page(self) -> tuple[bytes, str]:
        """The page, and its entity tag."""
        view = self._fresh()
        if self._page is None:
            body = page(view, self._parts)
            self._page = body, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        return self._page

    async def follow(self) -> AsyncIterator[bytes]:
        """A whole frame at once, then one a second: what differs, or all of it after a pause."""
        self._fresh()
        self._followers += 1
        seen = -1
        try:
            while True:
                if seen == self._number:
                    await self._changed.wait()
                    continue
                frame = self._delta if seen == self._number - 1 else self._all()
                seen = self._number
                yield frame
        finally:
            self._followers -= 1

    def _fresh(self) -> View:
        if self._view is None or self._clock() - self._made_at >= FRESH_S:
            return self._render()
        return self._view

    def _render(self) -> View:
        view = self._make()
        now = parts(view)
        self._delta = _frame(view, {k: v for k, v in now.items() if not same(v, self._parts.get(k, ""))})
        self._view, self._parts, self._whole, self._page = view, now, None, None
        self._made_at = self._clock()
        self._number += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return view

    def _all(self) -> bytes:
        if self._whole is None:
            self._whole = _frame(self._fresh(), self._parts, build())
        return self._whole


def _frame(view: View, changed: dict[str, str], whole: str | None = None) -> bytes:
    data = {"at": view.now, "title": title(view), "summary": view.status["summary"], "parts": changed}
    if whole is not None:
        data["build"] = whole
    return b"event: page\ndata: %b\n\n" % msgspec.json.encode(data)
