"""The responses that a later request may name: in memory, for a while, and not more than fit.

Each has the items that were new in its request and the response as it was sent; a conversation is a chain
of them. Whoever asks finds only what was kept for the same API key. A chain is used as a whole, and what was
used longest ago goes first, the ends of a chain before its beginnings. Nothing outlives the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from appliance.errors import ApiError
from appliance.server.replies import encode
from appliance.server.responses.items import shown
from appliance.server.responses.schema import Item

BYTES = 16 * 1024**2  # of all that is kept
SECONDS = 6 * 3600.0  # since it was last used
MOST = 4096
OVERHEAD = 1024  # bytes that an entry costs besides its two texts
log = logging.getLogger("lmx.server")
_BOUNDS = f"kept are at most {BYTES // 1024**2} MiB of responses, for {SECONDS / 3600:.0f} hours"


class _Output(msgspec.Struct):
    output: list[Item]


@dataclass
class _Entry:
    response: bytes
    given: bytes  # items, as /input_items shows them
    previous: str | None
    used: float

    @property
    def size(self) -> int:
        return len(self.response) + len(self.given) + OVERHEAD


class Kept:
    """scope: whose it is, a name for the API key that was shown."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self.size = 0  # bytes
        self._timer: asyncio.TimerHandle | None = None  # one, however many are kept

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, scope: str, response: dict[str, Any], given: Sequence[Item]) -> None:
        """One that is too large to keep is not kept."""
        now = _now()
        previous = response["previous_response_id"]
        items = encode([shown(item) for item in given])
        entry = _Entry(encode(response), items, previous, now)
        if entry.size > BYTES:
            log.warning("response %s of %d bytes is not kept: %s", response["id"], entry.size, _BOUNDS)
            return
        self._entries[scope, response["id"]] = entry
        self.size += entry.size
        if previous is not None:
            self._use(scope, previous, now)
        while self.size > BYTES or len(self._entries) > MOST:
            self._drop(next(iter(self._entries)))
        self._look_later()

    def response(self, scope: str, name: str) -> bytes:
        """JSON. Raises ApiError."""
        return self._entry(scope, name, "response_id").response

    def given(self, scope: str, name: str) -> list[dict[str, Any]]:
        """The items that led to it, the newest last: those of its whole conversation. Raises ApiError."""
        entry = self._entry(scope, name, "response_id")
        before = [] if entry.previous is None else self.conversation(scope, entry.previous)
        items: list[dict[str, Any]] = msgspec.json.decode(entry.given)
        return [shown(item) for item in before] + items

    def conversation(self, scope: str, name: str) -> list[Item]:
        """All items up to its end: what was asked, and what was answered. Raises ApiError."""
        turns = []
        wanted: str | None = name
        while wanted is not None:
            entry = self._entry(scope, wanted, "previous_response_id")
            turns.append(entry)
            wanted = entry.previous
        self._use(scope, name, _now())
        items: list[Item] = []
        for entry in reversed(turns):
            items += msgspec.json.decode(entry.given, type=list[Item])
            items += msgspec.json.decode(entry.response, type=_Output).output
        return items

    def forget(self, scope: str, name: str) -> None:
        """Raises ApiError."""
        self._entry(scope, name, "response_id")
        self._drop((scope, name))

    def _entry(self, scope: str, name: str, param: str) -> _Entry:
        self._expire()
        entry = self._entries.get((scope, name))
        if entry is None:
            text = f"there is no response {name[:80]!r}, or it was kept for another key; {_BOUNDS}"
            raise ApiError("not_found", f"{param}: {text}", param=param)
        return entry

    def _use(self, scope: str, name: str | None, now: float) -> None:
        """From the end of a chain to its beginning, which is thus the last to go."""
        while name is not None and (entry := self._entries.get((scope, name))) is not None:
            entry.used = now
            self._entries.move_to_end((scope, name))
            name = entry.previous

    def _look_later(self) -> None:
        """What nobody asks for goes in its time too: it is what people said."""
        if self._timer is None and self._entries:
            oldest = next(iter(self._entries.values())).used
            delay = max(1.0, oldest + SECONDS - _now())
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._expire()
        self._look_later()

    def _expire(self) -> None:
        oldest = _now() - SECONDS
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.used > oldest:
                return
            self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        self.size -= self._entries.pop(key).size


def _now() -> float:
    return asyncio.get_running_loop().time()
