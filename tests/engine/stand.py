"""A scheduler over stand-ins for both its neighbours; the model and the device are real."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

from appliance import wire
from appliance.engine import load
from appliance.engine.beat import Gauge
from appliance.engine.choice import Choice
from appliance.engine.intake import Cancelled, Stop
from appliance.engine.prompt import Job
from appliance.engine.reuse import Reuse
from appliance.engine.schedule import Scheduler


def job(rid: int, tokens: int = 10, **more: Any) -> Job:
    fields = {"prompt": [5, 6, 7, 8], "choice": Choice(), "seed": None, "stop": (), "ignore_eos": True}
    return Job(rid=rid, max_tokens=tokens, **{**fields, **more})


class Link:
    """Keeps what is sent, in order, and calls `when` after each frame."""

    def __init__(self) -> None:
        self.frames: list[wire.FromEngine] = []
        self.rows: dict[int, list[wire.Row]] = {}
        self.when: Callable[[], Any] = lambda: None

    def send(self, message: wire.FromEngine) -> None:
        self.frames.append(message)
        if isinstance(message, wire.Step):
            for row in message.rows:
                assert row.rid not in self.ended, "a row after the last"
                self.rows.setdefault(row.rid, []).append(row)
        self.when()

    @property
    def ended(self) -> set[int]:
        ended = {rid for rid, rows in self.rows.items() if rows[-1].finish is not None}
        return ended | {frame.rid for frame in self.frames if isinstance(frame, wire.Refused)}

    @property
    def accepted(self) -> list[wire.Accepted]:
        return [frame for frame in self.frames if isinstance(frame, wire.Accepted)]


class Inbox:
    """Commands given beforehand or by `Link.when`, then Stop."""

    def __init__(self, **limits: Any) -> None:
        self.inbox: Any = queue.SimpleQueue()
        self.preparing = 0
        fields = {"context": 4096, "concurrency": 8, "prefill_chunk": 64, "cache_memory": 2**30}
        self.limits = wire.Configure(**{**fields, **limits})


class Stand:
    def __init__(self, model: load.Model, reuse: Reuse | None = None, **limits: Any) -> None:
        self.out, self.into = Link(), Inbox(**limits)
        self.gauge = Gauge()
        self.scheduler = Scheduler(model, self.out, self.into, self.gauge, reuse)  # type: ignore[arg-type]

    def put(self, *commands: Any) -> None:
        for command in commands:
            self.into.inbox.put(command)

    def run(self, *jobs: Job, until: set[int] | None = None, when: Callable[[], Any] | None = None) -> None:
        """Serve until these have ended (all that were given, or `until`). when: called after each frame."""
        wanted = {job.rid for job in jobs} if until is None else until
        stopped = []

        def each() -> None:
            if when is not None:
                when()
            if not stopped and wanted <= self.out.ended:
                stopped.append(True)
                self.put(Stop())

        self.out.when = each
        self.put(*jobs)
        self.scheduler.run()
        self.scheduler._stopping = False

    def cancel_when(self, rid: int, ready: Callable[[], bool]) -> Callable[[], None]:
        """For `when`: cancel this one, once."""
        sent = []

        def look() -> None:
            if not sent and ready():
                sent.append(rid)
                self.put(Cancelled(rid))

        return look

    def tokens(self, rid: int) -> int:
        return self.out.rows[rid][-1].tokens if rid in self.out.rows else 0

    def text(self, rid: int) -> str:
        return "".join(row.text for row in self.out.rows[rid])

    def finish(self, rid: int) -> str | None:
        return self.out.rows[rid][-1].finish
