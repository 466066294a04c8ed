"""Which blocks the named sessions hold. Pure: their files are `sessions.py`'s."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.prompt_cache.index import Entry, Index


@dataclass(frozen=True)
class Held:
    """A session's newest text, from its first block to its last block or state."""

    path: Sequence[Entry]
    tokens: int
    used: float  # seconds since the epoch

    @property
    def memory(self) -> int:
        return sum(entry.memory for entry in self.path)

    @property
    def disk(self) -> int:
        return sum(entry.disk for entry in self.path)


class Pins:
    """Sessions by scope and name."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._held: dict[tuple[str, str], Held] = {}

    @property
    def held(self) -> dict[tuple[str, str], Held]:
        return dict(self._held)

    def hold(self, scope: str, name: str, last: Entry | None, tokens: int, now: float) -> None:
        """The session's text ends with `last`; what its older text held besides is free again."""
        path = last.path if last is not None else []
        self._index.pin(path, 1)
        if (old := self._held.pop((scope, name), None)) is not None:
            self._index.pin(old.path, -1)
        self._held[scope, name] = Held(path, tokens, now)

    def limit(self, most: int) -> None:
        """Of more sessions than this, the least recently held are sessions no more; their blocks stay."""
        while len(self._held) > most:
            self._index.pin(self._held.pop(next(iter(self._held))).path, -1)

    def drop(self, scope: str, name: str) -> list[bytes]:
        """Forget a session and what nobody shares with it; keys whose files may go."""
        held = self._held.pop((scope, name))
        self._index.pin(held.path, -1)
        gone: list[bytes] = []
        behind: Entry | None = None
        for entry in reversed(held.path):
            if not entry.alive:
                continue
            if entry.pins or entry.children:
                break  # of another text too, and so is all before it
            for tokens, state in list((entry.states or {}).items()):
                if behind is not None and behind.tokens.startswith(tokens) and not state.pins:
                    gone.append(state.key)
                    self._index.remove(state)
            if entry.states:
                break
            behind = entry
            gone.append(entry.key)
            self._index.remove(entry)
        return gone

    def cool(self, before: float) -> None:
        """Sessions not used since then leave memory, where the disk has all of their text."""
        for held in self._held.values():
            path = [entry for entry in held.path if entry.alive]
            if held.used >= before or any(entry.payload is not None and not entry.disk for entry in path):
                continue
            for entry in reversed(path):
                if entry.used < before and not entry.warm:
                    self._index.release(entry)
