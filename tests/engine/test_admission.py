"""Requests start only when the memory for them is there, and every one of them ends.

The model is small, its caches are not: 8 KiB a token, so that a few requests of a ceiling of 2,048 tokens
fill an allowance that is small beside what would be needed for all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import wire
from appliance.hub import find
from reconciler import forecast
from tests.engine import models
from tests.engine.client import Engine, Reply

MIB = 2**20
CONTEXT, CHUNK = 2048, 256
WIDE = {**models.QWEN3, "num_hidden_layers": 4, "num_key_value_heads": 4, "head_dim": 64}
ROW = 8192 * CONTEXT
ONE = int(1.3 * ROW)  # enough for one long request and never for two


class Serving:
    def __init__(self, folder: Path, log: Path) -> None:
        self.engine = Engine(log)
        self.base = self.engine.load(folder).active_bytes
        priced = forecast.forecast(find(str(folder)), context=CONTEXT, prefill_chunk=CHUNK, backend="cpu")
        self.workspace = priced.workspace

    def limit(self, kv: int, **more: Any) -> int:
        """Allow the weights, a chunk's workspace and so many bytes besides; the allowance."""
        memory = self.base + self.workspace + kv if kv else 0
        fields = {"context": CONTEXT, "concurrency": 16, "prefill_chunk": CHUNK, **more}
        self.engine.send(wire.Configure(memory=memory, workspace=self.workspace, **fields))
        return memory

    def running(self) -> wire.Beat:
        """The next beat but one: it was made after all that has been sent so far was read."""
        self.engine.expect(wire.Beat)
        return self.engine.expect(wire.Beat)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("models") / "wide", WIDE)


@pytest.fixture
def fresh(wide: Path, tmp_path: Path) -> Iterator[Serving]:
    """One of its own: MLX's peak counts from the start."""
    started = Serving(wide, tmp_path / "log")
    yield started
    started.engine.close()


@pytest.fixture(scope="module")
def shared(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    started = Serving(wide, tmp_path_factory.mktemp("logs") / "log")
    yield started
    started.engine.close()


@pytest.fixture
def serving(shared: Serving) -> Serving:
    shared.engine.frames.clear()
    return shared


def ask(prompt: int, tokens: int) -> dict[str, Any]:
    return {"prompt": [5 + n % 200 for n in range(prompt)], "max_tokens": tokens, "ignore_eos": True}


@pytest.mark.parametrize("seed", [1, 2])
def test_what_mlx_holds_stays_within_the_allowance_and_every_request_ends(fresh: Serving, seed: int) -> None:
    engine, chance = fresh.engine, random.Random(seed)
    memory = fresh.limit(int(2.5 * ROW), buffer_cache=8 * MIB)
    replies: list[Reply] = []
    for _ in range(40):
        prompt = min(int(chance.expovariate(1 / 300)) + 1, 1900)
        tokens = min(int(chance.expovariate(1 / 30)) + 1, CONTEXT - prompt)
        replies.append(engine.submit(**ask(prompt, tokens)))
        seen = len(engine.frames)
        more = seen + chance.randrange(6)
        engine.until(lambda more=more: len(engine.frames) >= more or idle(engine))
    engine.finish(*replies, within=90)
    fresh.running()
    assert {reply.finish for reply in replies} == {"length"}
    assert max(beat.peak_bytes for beat in engine.beats) <= memory * 1.05
    assert max(beat.active_bytes + beat.cache_bytes for beat in engine.beats) <= memory * 1.05
    assert any(beat.waiting for beat in engine.beats), "the allowance held nobody back, so this tests nothing"
    assert all(beat.reserved_bytes <= memory for beat in engine.beats)


def idle(engine: Engine) -> bool:
    return all(reply.ended for reply in engine.replies.values())


def test_without_the_limit_the_same_requests_hold_far_more(fresh: Serving) -> None:
    """What the test above holds back is real."""
    engine = fresh.engine
    fresh.limit(0)
    replies = [engine.submit(**ask(1500, 60)) for _ in range(8)]
    engine.finish(*replies, within=90)
    assert fresh.running().peak_bytes > 1.05 * (fresh.base + fresh.workspace + int(2.5 * ROW))


def test_requests_wait_in_order_and_are_accepted_when_they_start(serving: Serving) -> None:
    engine = serving.engine
    serving.limit(ONE)
    replies = [engine.submit(**ask(1400, 30)) for _ in range(4)]
    engine.finish(*replies, within=60)
    told: list[tuple[str, int]] = []
    for frame in engine.frames:
        if isinstance(frame, wire.Accepted):
            told.append(("begin", frame.rid))
        elif isinstance(frame, wire.Step):
            told.extend(("end", line.rid) for line in frame.rows if line.finish is not None)
    assert told == [(what, reply.rid) for reply in replies for what in ("begin", "end")]


def test_a_small_request_does_not_overtake_a_large_one_that_waits_for_memory(serving: Serving) -> None:
    engine = serving.engine
    serving.limit(ONE)
    first = engine.submit(**ask(1000, 200))
    large, small = engine.submit(**ask(1500, 5)), engine.submit(**ask(10, 5))
    engine.finish(first, large, small, within=60)
    begun = [frame.rid for frame in engine.frames if isinstance(frame, wire.Accepted)]
    assert begun == [first.rid, large.rid, small.rid]


def test_waiting_changes_no_token(serving: Serving) -> None:
    engine = serving.engine
    texts = []
    for kv in (0, ONE):
        serving.limit(kv)
        replies = [engine.submit(**ask(100 * n, 20)) for n in range(1, 7)]
        engine.finish(*replies, within=60)
        texts.append([reply.text for reply in replies])
    assert texts[0] == texts[1]


def test_what_would_not_fit_alone_is_refused_with_what_would(serving: Serving) -> None:
    engine = serving.engine
    serving.limit(ROW * 3 // 4, context_declared=4096)
    refused = engine.ask(**ask(1900, 100)).refused
    assert refused is not None
    assert (refused.code, refused.param) == ("context_length_exceeded", "prompt")
    assert refused.details is not None
    most, shorter = refused.details["largest_total"], refused.details["largest_prompt"]
    assert refused.details == {
        "prompt_tokens": 1900,
        "declared": 4096,
        "effective": CONTEXT,
        "max_tokens": 100,
        "largest_prompt": most - 100,
        "largest_total": most,
    }
    for part in ("1900", "4096", "2048", str(shorter)):
        assert part in refused.message
    assert engine.ask(**ask(shorter, 100)).finish == "length", "what it says fits does fit"
    again = engine.ask(**ask(shorter + 1, 100)).refused
    assert again is not None
    assert again.param == "max_tokens"
    assert f"at most {most - shorter - 1}" in again.message


def test_a_default_of_max_tokens_that_does_not_fit_is_said_to_be_one(serving: Serving) -> None:
    engine = serving.engine
    serving.limit(ROW * 3 // 4)
    refused = engine.ask([5] * 100, ignore_eos=True).refused
    assert refused is not None
    assert refused.code == "context_length_exceeded"
    assert refused.param == "max_tokens"
    assert "by default" in refused.message


def test_a_smaller_allowance_leaves_running_rows_and_ends_the_wait_of_what_cannot_fit(
    serving: Serving,
) -> None:
    engine = serving.engine
    serving.limit(ONE)
    running = engine.submit(**ask(300, 1200))
    engine.until(lambda: bool(running.rows))
    waiting = engine.submit(**ask(300, 1200))
    beat = serving.running()
    assert (beat.rows, beat.waiting) == (1, 1)
    serving.limit(MIB)
    engine.finish(running, waiting, within=60)
    assert (running.finish, running.rows[-1].tokens) == ("length", 1200)
    assert waiting.accepted is None
    assert waiting.refused is not None
    assert waiting.refused.code == "overloaded"
    assert waiting.refused.details is not None
    assert waiting.refused.details["needed_bytes"] > waiting.refused.details["allowed_bytes"]


def test_an_allowance_below_the_weights_refuses_as_overloaded_until_it_grows(serving: Serving) -> None:
    engine = serving.engine
    serving.limit(1 - serving.base - serving.workspace)
    refused = engine.ask(**ask(10, 5)).refused
    assert refused is not None
    assert refused.code == "overloaded"
    serving.limit(2 * ROW)
    assert engine.ask(**ask(10, 5)).finish == "length"


def test_what_waits_for_memory_can_be_taken_back(serving: Serving) -> None:
    engine = serving.engine
    serving.limit(ONE)
    running = engine.submit(**ask(300, 1200))
    engine.until(lambda: bool(running.rows))
    waiting = engine.submit(**ask(300, 1200))
    serving.running()
    engine.send(wire.Cancel(waiting.rid))
    engine.finish(waiting)
    assert (waiting.finish, waiting.accepted, running.ended) == ("cancelled", None, False)
    engine.finish(running, within=60)


def test_an_idle_engine_gives_its_buffers_back_when_told(serving: Serving) -> None:
    engine = serving.engine
    serving.limit(0)
    engine.finish(*(engine.submit(**ask(900, 4)) for _ in range(3)), within=60)
    serving.limit(0, buffer_cache=0)
    engine.beats.clear()
    engine.until(lambda: any(beat.cache_bytes == 0 and beat.stage == "idle" for beat in engine.beats))
    engine.ask(**ask(900, 4))
    assert serving.running().cache_bytes < MIB


def test_busy_seconds_grow_with_work_only(serving: Serving) -> None:
    engine = serving.engine
    serving.limit(0)
    before = serving.running().busy_s
    assert serving.running().busy_s == before
    engine.ask(**ask(1500, 20))
    after = serving.running().busy_s
    assert after > before
    assert serving.running().busy_s == after
