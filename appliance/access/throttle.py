"""Slows down who tries wrong keys: a few are a slip, hundreds are a search.

One and the same again and again is a client that nobody told of its new key, and counts once.

By address, in a table of bounded size. An address whose tries are used up gets no more of them checked for
a while. Keys that were right there before still are: behind one proxy or router sit many.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

TRIES = 20
EACH_S = 3.0  # until there is one more
ADDRESSES = 4096
T = TypeVar("T")
NAMES = 16  # of keys remembered for one address, right and wrong ones


@dataclass
class _Address:
    tries: float
    at: float
    known: OrderedDict[str, None] = field(default_factory=OrderedDict)  # names of right keys
    wrong: OrderedDict[bytes, None] = field(default_factory=OrderedDict)  # digests of others


class Throttle:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._table: OrderedDict[str, _Address] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until a key from there is looked at again; 0: now."""
        entry = self._table.get(_place(address))
        return 0.0 if entry is None else max(0.0, (1.0 - self._left(entry)) * EACH_S)

    def known(self, address: str, name: str) -> bool:
        entry = self._table.get(_place(address))
        return entry is not None and name in entry.known

    def failed(self, address: str, digest: bytes) -> None:
        entry = self._entry(address)
        if digest not in entry.wrong:
            entry.tries = max(0.0, self._left(entry) - 1.0)
        _remember(entry.wrong, digest)

    def right(self, address: str, name: str) -> None:
        _remember(self._entry(address).known, name)

    def _left(self, entry: _Address) -> float:
        now = self._clock()
        entry.tries = min(TRIES, entry.tries + (now - entry.at) / EACH_S)
        entry.at = now
        return entry.tries

    def _entry(self, address: str) -> _Address:
        place = _place(address)
        entry = self._table.get(place)
        if entry is None:
            entry = self._table[place] = _Address(TRIES, self._clock())
            if len(self._table) > ADDRESSES:
                self._table.popitem(last=False)
        else:
            self._table.move_to_end(place)
        return entry


def _remember(latest: OrderedDict[T, None], one: T) -> None:
    latest[one] = None
    latest.move_to_end(one)
    if len(latest) > NAMES:
        latest.popitem(last=False)


def _place(address: str) -> str:
    """An IPv6 client has a whole /64 to itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
