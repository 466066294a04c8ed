"""Whose turn it is: callers share by the tokens they were served. Pure.

Start-time fair queueing (Goyal, Vin and Cheng 1996), with what a request really took charged as it is
computed, since nobody knows beforehand how long an answer will be (as the virtual token counter of Sheng et
al. 2024 does): the waiting caller that was served least goes next. Who comes, or comes back, begins at the
count at which the last request started: nobody saves up turns by being away, and nobody pays for having
been served while the others were.
"""

from __future__ import annotations

from collections.abc import Iterable

KNOWN = 4096  # callers remembered


class Fair:
    def __init__(self) -> None:
        self._served: dict[str, float] = {}  # tokens, counted from a common beginning
        self._now = 0.0  # the count of the caller whose request started last

    def arrive(self, caller: str, busy: bool) -> None:
        """A request of theirs has come. busy: others of theirs wait or run already."""
        if not busy or caller not in self._served:
            self._served[caller] = max(self._served.get(caller, 0.0), self._now)
        if len(self._served) > KNOWN:  # those who were served least would begin lowest anyway
            most = sorted(self._served, key=self._served.__getitem__)[-KNOWN // 2 :]
            self._served = {one: self._served[one] for one in {*most, caller}}

    def next(self, callers: Iterable[str]) -> str:
        """Of those who wait, in the order they came: the one whose turn it is."""
        return min(callers, key=lambda caller: self._served.get(caller, self._now))

    def start(self, caller: str) -> None:
        """A request of theirs starts now."""
        self._now = max(self._now, self._served.get(caller, 0.0))

    def charge(self, caller: str, tokens: int) -> None:
        """They were served so many tokens: of a prompt, computed; of an answer."""
        self._served[caller] = self._served.get(caller, self._now) + tokens
