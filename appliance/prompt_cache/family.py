"""Which block follows which, as far as this engine knows: what lies between a text's end and its root."""

from __future__ import annotations

from appliance.prompt_cache.format import Record


class Family:
    """Not thread-safe."""

    def __init__(self) -> None:
        self._parents: dict[bytes, bytes] = {}
        self._states: dict[bytes, set[bytes]] = {}  # by parent

    def add(self, record: Record) -> None:
        self._parents[record.key] = record.parent
        if record.kind == "state":
            self._states.setdefault(record.parent, set()).add(record.key)

    def discard(self, key: bytes) -> None:
        parent = self._parents.pop(key, None)
        if parent is not None and (states := self._states.get(parent)):
            states.discard(key)
            if not states:
                del self._states[parent]

    def chain(self, leaf: bytes) -> list[bytes]:
        """From the first block to `leaf`, each followed by its states; what is unknown is left out."""
        path = []
        key: bytes | None = leaf
        while key is not None and key in self._parents:
            path.append(key)
            key = self._parents[key]
        chain: dict[bytes, None] = {}
        for one in reversed(path):
            chain[one] = None
            chain |= dict.fromkeys(sorted(self._states.get(one, ())))
        return list(chain)
