"""The requests that wait: one line per model, in order of arrival, whatever brought them here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain

from appliance.supervisor.ticket import Ticket


class Queues:
    def __init__(self) -> None:
        self._lines: dict[str, deque[Ticket]] = {}  # never holds an empty one
        self._count = 0

    def __len__(self) -> int:
        """Requests in all lines."""
        return self._count

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._lines))

    def __contains__(self, target: str) -> bool:
        return target in self._lines

    def line(self, target: str) -> Sequence[Ticket]:
        return self._lines.get(target, ())

    def put(self, ticket: Ticket) -> None:
        line = self._lines.setdefault(ticket.target, deque())
        if line and line[-1].number > ticket.number:  # queued again: back to its old place
            line = deque(sorted([*line, ticket], key=lambda other: other.number))
            self._lines[ticket.target] = line
        else:
            line.append(ticket)
        ticket.queued = True
        self._count += 1

    def take(self, ticket: Ticket) -> None:
        line = self._lines[ticket.target]
        line.remove(ticket)
        if not line:
            del self._lines[ticket.target]
        ticket.queued = False
        self._count -= 1

    def take_all(self) -> list[Ticket]:
        """Everybody, in order of arrival."""
        everybody = sorted(chain.from_iterable(self._lines.values()), key=lambda ticket: ticket.number)
        for ticket in everybody:
            ticket.queued = False
        self._lines.clear()
        self._count = 0
        return everybody
