"""The public sockets, kept while appliances come and go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any


class Sockets:
    """Descriptors by address, copies of what an appliance listens on: a port closes with the last of them."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, int, tuple[int, ...]]] = []

    def replace(self, said: Any, fds: Sequence[int]) -> None:
        """From now on these. Raises ValueError where the message and its descriptors do not fit."""
        left, found = list(fds), []
        for one in said if isinstance(said, list) else ():
            count = int(one["count"])
            found.append((str(one["host"]), int(one["port"]), tuple(left[:count])))
            del left[:count]
        if left or any(not fds for _, _, fds in found):
            raise ValueError("an address without its sockets")
        self.close()
        self._kept = found

    def told(self) -> tuple[list[dict[str, Any]], list[int]]:
        """What is kept, for a message, and the descriptors to send along."""
        words = [{"host": host, "port": port, "count": len(fds)} for host, port, fds in self._kept]
        return words, [fd for _, _, fds in self._kept for fd in fds]

    def __len__(self) -> int:
        return len(self._kept)

    def close(self) -> None:
        for _, _, fds in self._kept:
            for fd in fds:
                os.close(fd)
        self._kept = []
