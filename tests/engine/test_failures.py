"""A failure inside a step ends the rows it concerns with an error, and the engine carries on."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest

from appliance import wire
from appliance.engine import load, weights
from appliance.engine.beat import Gauge
from appliance.engine.choice import Choice
from appliance.engine.intake import Stop
from appliance.engine.prompt import Job
from appliance.engine.schedule import Scheduler


class Wire:
    """Stands for the link: keeps what is sent."""

    def __init__(self) -> None:
        self.rows: dict[int, list[wire.Row]] = {}

    def send(self, message: wire.FromEngine) -> None:
        assert isinstance(message, wire.Step)
        for row in message.rows:
            self.rows.setdefault(row.rid, []).append(row)


class Inbox:
    """Stands for the intake: commands given beforehand, then Stop."""

    def __init__(self, *commands: Any) -> None:
        self.inbox: Any = queue.SimpleQueue()
        self.preparing = 0
        self.limits = wire.Configure(context=512, concurrency=8)
        for command in commands:
            self.inbox.put(command)


def job(rid: int, tokens: int = 10, **more: Any) -> Job:
    fields = {"choice": Choice(), "seed": None, "stop": (), "ignore_eos": True, **more}
    return Job(rid=rid, prompt=[5, 6, 7, 8], max_tokens=tokens, **fields)


@pytest.fixture(scope="module")
def model(folder: Path) -> load.Model:
    order = wire.Load(model="test", path=str(folder))
    return load.load(order, weights.check(order), lambda done, total: None)


def serve(scheduler: Scheduler, inbox: Inbox) -> None:
    """Run until nothing is left to do."""
    while not inbox.inbox.empty() or scheduler._busy() or scheduler._waiting:
        scheduler._take()
        scheduler._admit()
        scheduler._turn()


def test_a_processor_that_raises_fails_its_own_row_only(
    model: load.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, inbox = Wire(), Inbox(job(1), job(2, choice=Choice(presence=1.0)), job(3))
    scheduler = Scheduler(model, out, inbox, Gauge())  # type: ignore[arg-type]
    make = scheduler._row

    def with_a_fault(job: Job) -> Any:
        row = make(job)
        if job.rid == 2:

            def fault(last: Any, logits: Any) -> Any:
                raise ValueError("no such grammar")

            row.processor = fault  # type: ignore[assignment]
        return row

    monkeypatch.setattr(scheduler, "_row", with_a_fault)
    serve(scheduler, inbox)
    assert out.rows[2][-1].finish == "error"
    assert "no such grammar" in str(out.rows[2][-1].message)
    assert [out.rows[rid][-1].finish for rid in (1, 3)] == ["length", "length"]


def test_a_step_that_fails_ends_its_rows_and_the_next_request_is_served(
    model: load.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, inbox = Wire(), Inbox(job(1), job(2))
    scheduler = Scheduler(model, out, inbox, Gauge())  # type: ignore[arg-type]

    def fault(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the device went away")

    scheduler._take()
    scheduler._admit()
    scheduler._turn()
    with monkeypatch.context() as patch:
        patch.setattr(scheduler._decoding, "_sample", fault)
        scheduler._turn()
    assert {out.rows[rid][-1].finish for rid in (1, 2)} == {"error"}
    assert "the device went away" in str(out.rows[1][-1].message)
    inbox.inbox.put(job(3))
    serve(scheduler, inbox)
    assert out.rows[3][-1].finish == "length"


def test_a_prefill_that_fails_ends_its_own_rows_only(
    model: load.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, inbox = Wire(), Inbox(job(1, tokens=30))
    scheduler = Scheduler(model, out, inbox, Gauge())  # type: ignore[arg-type]
    for _ in range(3):
        scheduler._take() if scheduler._turns == 0 else None
        scheduler._admit()
        scheduler._turn()
    inbox.inbox.put(job(2))
    scheduler._take()
    scheduler._admit()

    def fault(chunk: int) -> int:
        raise MemoryError("no room")

    monkeypatch.setattr(scheduler._prefills[0], "advance", fault)
    serve(scheduler, inbox)
    assert out.rows[2][-1].finish == "error"
    assert out.rows[1][-1].finish == "length"


def test_stop_ends_the_loop(model: load.Model) -> None:
    inbox = Inbox(job(1), Stop())
    Scheduler(model, Wire(), inbox, Gauge()).run()  # type: ignore[arg-type]
