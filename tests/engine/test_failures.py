"""A failure inside a step ends the rows it concerns with an error, and the engine carries on."""

from __future__ import annotations

import queue
import traceback
from pathlib import Path
from typing import Any

import pytest

from appliance import wire
from appliance.engine import load, warm, weights
from appliance.engine.beat import Gauge
from appliance.engine.choice import Choice
from appliance.engine.decode import Decoding
from appliance.engine.intake import Stop
from appliance.engine.output import Output
from appliance.engine.picking import Picking
from appliance.engine.prefill import Prefill
from appliance.engine.prompt import Job
from appliance.engine.running import GIVE_UP, Exhausted
from appliance.engine.sampling import Processor, Samplers
from appliance.engine.schedule import Scheduler
from appliance.supervisor import endings


class Wire:
    """Stands for the link: keeps what is sent."""

    def __init__(self) -> None:
        self.rows: dict[int, list[wire.Row]] = {}
        self.accepted: list[int] = []
        self.when: Any = None  # called after each frame

    @property
    def ended(self) -> set[int]:
        return {rid for rid, rows in self.rows.items() if rows[-1].finish is not None}

    def send(self, message: wire.FromEngine) -> None:
        if isinstance(message, wire.Accepted):
            self.accepted.append(message.rid)
            return
        assert isinstance(message, wire.Step)
        for row in message.rows:
            assert row.rid not in self.ended, "a row after the last"
            self.rows.setdefault(row.rid, []).append(row)
        self.when()


class Inbox:
    """Stands for the intake: commands given beforehand, then Stop."""

    def __init__(self) -> None:
        self.inbox: Any = queue.SimpleQueue()
        self.preparing = 0
        self.limits = wire.Configure(context=512, concurrency=8)


def job(rid: int, tokens: int = 10, **more: Any) -> Job:
    fields = {"prompt": [5, 6, 7, 8], "choice": Choice(), "seed": None, "stop": (), "ignore_eos": True}
    return Job(rid=rid, max_tokens=tokens, **{**fields, **more})


@pytest.fixture(scope="module")
def model(folder: Path) -> load.Model:
    order = wire.Load(model="test", path=str(folder))
    return load.load(order, weights.check(order), lambda done, total: None)


class Serving:
    """A scheduler over stand-ins for both its neighbours; the model and the device are real."""

    def __init__(self, model: load.Model) -> None:
        self.out, self.inbox = Wire(), Inbox()
        self.scheduler = Scheduler(model, self.out, self.inbox, Gauge())  # type: ignore[arg-type]

    def run(self, *jobs: Job) -> None:
        """Serve these to their ends."""
        for job in jobs:
            self.inbox.inbox.put(job)
        wanted = {job.rid for job in jobs}
        self.out.when = lambda: wanted <= self.out.ended and self.inbox.inbox.put(Stop())
        self.scheduler.run()
        self.scheduler._stopping = False

    def finish(self, rid: int) -> str | None:
        return self.out.rows[rid][-1].finish

    def message(self, rid: int) -> str:
        return str(self.out.rows[rid][-1].message)


@pytest.fixture
def serving(model: load.Model) -> Serving:
    return Serving(model)


def test_a_processor_that_raises_fails_its_own_row_only(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fault(processor: Processor, last: Any, logits: Any) -> Any:
        calls.append(last)
        if len(calls) == 4:
            raise ValueError("no such grammar")
        return logits

    monkeypatch.setattr(Processor, "__call__", fault)
    serving.run(job(1), job(2, choice=Choice(presence=1.0)), job(3))
    assert serving.finish(2) == "error"
    assert "no such grammar" in serving.message(2)
    assert [serving.finish(rid) for rid in (1, 3)] == ["length", "length"]
    assert len(calls) == 4


@pytest.mark.parametrize("length", [4, 60, 300])
def test_a_processor_that_raises_at_once_leaves_no_text(
    model: load.Model, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """Alone, where the first token is picked with the prompt's last chunk; and beside another."""
    serving = Serving(warm.up(model, Gauge()))

    def fault(processor: Processor, last: Any, logits: Any) -> Any:
        raise ValueError("no such grammar")

    asked = {"choice": Choice(presence=1.0), "prompt": [5 + n % 200 for n in range(length)]}
    serving.run(job(1, prompt=[7] * 200))  # for the speed of chunks
    with monkeypatch.context() as patch:
        patch.setattr(Processor, "__call__", fault)
        serving.run(job(2, **asked))
        serving.run(job(3, tokens=40), job(4, **asked))
    for rid in (2, 4):
        (only,) = serving.out.rows[rid]
        assert (only.finish, only.text, only.tokens) == ("error", "", 0)
        assert "no such grammar" in serving.message(rid)
    assert serving.finish(3) == "length"


def test_a_step_that_fails_ends_its_rows_and_the_next_request_is_served(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Picking, "_sample", raising(RuntimeError("the device went away")))
        serving.run(job(1), job(2))
    for rid in (1, 2):
        assert serving.finish(rid) == "error"
        assert "the device went away" in serving.message(rid)
    serving.run(job(3))
    assert serving.finish(3) == "length"


def test_a_prefill_that_fails_ends_its_own_rows_only(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = Prefill._compute

    def fault(prefill: Prefill, *more: Any) -> None:
        if any(row.job.rid == 2 for row in prefill.rows):
            raise MemoryError("no room")
        compute(prefill, *more)

    monkeypatch.setattr(Prefill, "_compute", fault)
    serving.run(job(1, prompt=[5] * 500), job(2), job(3, prompt=[6] * 400))
    assert [serving.finish(rid) for rid in (1, 2, 3)] == ["length", "error", "length"]
    assert "no room" in serving.message(2)


def test_a_detokenizer_that_fails_ends_its_own_row_only(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = Output.push
    made = []

    def fault(output: Output, token: int) -> Any:
        if output not in made:
            made.append(output)
        if output is made[0]:
            raise KeyError(token)
        return push(output, token)

    monkeypatch.setattr(Output, "push", fault)
    serving.run(job(1), job(2))
    assert sorted(str(serving.finish(rid)) for rid in (1, 2)) == ["error", "length"]


def test_a_request_that_cannot_start_is_told(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Samplers, "get", raising(ValueError("no such sampler")))
        serving.run(job(1))
    assert "no such sampler" in serving.message(1)
    serving.run(job(2))
    assert serving.finish(2) == "length"


def test_a_step_without_memory_ends_what_decodes_and_a_prompt_in_work_goes_on(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = Decoding.step, []

    def fault(decoding: Decoding, *, last: bool = False) -> Any:
        calls.append(len(decoding.rows))
        if len(calls) == 3:
            raise RuntimeError("[malloc] Unable to allocate 123456 bytes.")
        return step(decoding, last=last)

    monkeypatch.setattr(Decoding, "step", fault)
    serving.inbox.limits = wire.Configure(context=4096, concurrency=8, prefill_chunk=64)
    serving.run(job(1), job(2, prompt=[5] * 1500))
    assert (serving.finish(1), serving.finish(2)) == ("error", "length")
    assert "not enough memory for this step" in serving.message(1)
    assert "123456" in serving.message(1)


def test_an_engine_that_finds_no_memory_even_when_empty_ends_and_is_read_as_out_of_memory(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoding, "step", raising(RuntimeError("[malloc] Unable to allocate 123456 bytes.")))
    for rid in range(1, GIVE_UP):
        serving.run(job(rid))
        assert serving.finish(rid) == "error"
    with pytest.raises(Exhausted) as raised:
        serving.run(job(GIVE_UP))
    assert serving.finish(GIVE_UP) == "error", "its row hears of it first"
    said = "".join(traceback.format_exception(raised.value)).encode()
    assert endings.ended(wire.EXIT_CRASHED, said, "decode").reason == "oom"


def test_one_step_that_works_begins_the_count_anew(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    for rid in range(1, 2 * GIVE_UP, 2):
        with monkeypatch.context() as patch:
            patch.setattr(Decoding, "step", raising(MemoryError("none left")))
            serving.run(job(rid))
        serving.run(job(rid + 1))
        assert (serving.finish(rid), serving.finish(rid + 1)) == ("error", "length")


def raising(error: Exception) -> Any:
    def fault(*_: Any, **__: Any) -> Any:
        raise error

    return fault
