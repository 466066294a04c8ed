"""The requests one engine holds, and where the answers to each go.

A lease begins with the Submit and ends once, with whatever comes first: the row's `finish`, a Refused,
a Cancel, or the end of the engine. Who releases it twice releases nothing.
"""

from __future__ import annotations

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor import probe
from appliance.supervisor.order import Sink


class Leases:
    def __init__(self) -> None:
        self._sinks: dict[int, Sink] = {}
        self._unanswered: dict[int, Sink] = {}  # those of them neither accepted nor refused yet

    def __len__(self) -> int:
        """Without the probe: it is no client's."""
        return len(self._sinks) - (probe.RID in self._sinks)

    @property
    def unanswered(self) -> bool:
        return bool(self._unanswered)

    def add(self, rid: int, sink: Sink) -> None:
        self._sinks[rid] = self._unanswered[rid] = sink

    def release(self, rid: int) -> bool:
        """False: it was released before."""
        self._unanswered.pop(rid, None)
        return self._sinks.pop(rid, None) is not None

    def accept(self, message: wire.Accepted) -> None:
        sink = self._unanswered.pop(message.rid, None)
        if sink is not None:
            sink.accepted(message)

    def refuse(self, message: wire.Refused) -> bool:
        """Whether that freed a row."""
        sink = self._unanswered.get(message.rid)
        if sink is None:
            return False
        self.release(message.rid)
        sink.refused(message)
        return True

    def hand_out(self, rows: list[wire.Row]) -> bool:
        """The hot path: one pass over the rows of a step. Whether that freed a row."""
        sinks = self._sinks
        freed = False
        for row in rows:
            sink = sinks.get(row.rid)
            if sink is None:
                continue  # cancelled; the engine had not read that yet
            if row.finish is not None:
                if row.rid in self._unanswered:  # it ended before the engine came to say Accepted
                    self.accept(wire.Accepted(row.rid, 0))
                self.release(row.rid)
                freed = True
            sink.row(row)
        return freed

    def return_unanswered(self) -> list[int]:
        """Give back what was not accepted, to run elsewhere; returns their rids."""
        returned = list(self._unanswered.items())
        for rid, sink in returned:
            self.release(rid)
            sink.returned()
        return [rid for rid, _ in returned]

    def lose(self, error: ApiError) -> None:
        """The engine is gone, and everything accepted with it."""
        for rid, sink in list(self._sinks.items()):
            self.release(rid)
            sink.lost(error)
