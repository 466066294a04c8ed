"""Who gets the device next, on a real one: short before long, nobody for ever, callers in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance import wire
from appliance.engine import load, warm, weights
from appliance.engine.beat import Gauge
from appliance.engine.intake import Configured
from appliance.engine.pacing import MOST, PATIENCE
from appliance.engine.prefill import Prefill, Turn
from tests.engine.stand import Stand, job

LONG = [5 + (7 * n) % 211 for n in range(1600)]
CHUNK = 64


@pytest.fixture(scope="module")
def model(folder: Path) -> load.Model:
    order = wire.Load(model="test", path=str(folder))
    return warm.up(load.load(order, weights.check(order), lambda done, total: None), Gauge())


@pytest.fixture
def stand(model: load.Model) -> Stand:
    return Stand(model, prefill_chunk=CHUNK, prefill_auto=False)


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, bool]]:
    """(request, tokens, whether rows decoded beside it) of each chunk, in order."""
    advance, seen = Prefill.advance, []

    def watched(prefill: Prefill, turn: Turn) -> int:
        tokens = advance(prefill, turn)
        seen.append((prefill.rows[0].job.rid, tokens, not turn.alone))
        return tokens

    monkeypatch.setattr(Prefill, "advance", watched)
    return seen


def order(stand: Stand) -> list[int]:
    return [message.rid for message in stand.out.accepted]


def test_a_short_request_is_answered_while_a_long_prompt_is_in_work(stand: Stand) -> None:
    came: list[int] = []

    def look() -> None:
        if not came and stand.out.accepted:
            came.append(2)
            stand.put(job(2, tokens=5))

    stand.run(job(1, tokens=5, prompt=LONG), when=look, until={1, 2})
    ended = [
        row.rid
        for frame in stand.out.frames
        if isinstance(frame, wire.Step)
        for row in frame.rows
        if row.finish
    ]
    assert ended == [2, 1]
    assert stand.out.rows[1][0].tokens >= 1
    first = next(n for n, frame in enumerate(stand.out.frames) if isinstance(frame, wire.Step))
    assert {row.rid for row in stand.out.frames[first].rows} == {2}  # type: ignore[union-attr]


def test_a_long_prompt_ends_under_an_endless_stream_of_short_ones(
    stand: Stand, chunks: list[tuple[int, int, bool]]
) -> None:
    last = 1

    def look() -> None:
        nonlocal last
        open_ = last - len(stand.out.ended)
        if not stand.out.rows.get(1) and open_ < 4:
            stand.put(*(job(last + n, tokens=1, prompt=[last % 200 + 5] * CHUNK) for n in range(1, 4)))
            last += 3

    stand.run(job(1, tokens=3, prompt=LONG), when=look, until={1})
    own = [number for number, (rid, _, _) in enumerate(chunks) if rid == 1]
    assert len(own) == -(-len(LONG) // CHUNK)
    assert own[-1] + 1 <= (PATIENCE + 1) * len(own) + PATIENCE
    assert len(chunks) > 2 * len(own), "there were enough short ones to starve it"


def test_chunks_are_large_alone_and_small_beside_a_stream(
    model: load.Model, chunks: list[tuple[int, int, bool]]
) -> None:
    stand = Stand(model, prefill_chunk=512)
    came: list[int] = []

    def look() -> None:
        if not came and stand.tokens(2) >= 3:
            came.append(3)
            stand.put(job(3, tokens=2, prompt=LONG))

    stand.run(job(1, tokens=2, prompt=LONG))
    alone = [tokens for _, tokens, beside in chunks if not beside]
    assert set(alone[:-1]) == {409}
    assert alone[-1] <= 512
    assert sum(alone) == len(LONG) - 1
    stand.run(job(2, tokens=600), when=look, until={3, 2})
    sizes = [tokens for rid, tokens, beside in chunks if rid == 3 and beside]
    assert sum(sizes) > MOST
    assert max(sizes) <= MOST


def test_a_declared_chunk_is_kept_to_beside_a_stream(
    stand: Stand, chunks: list[tuple[int, int, bool]]
) -> None:
    stand.run(job(1, tokens=100), job(2, tokens=2, prompt=LONG))
    assert {tokens for rid, tokens, beside in chunks if rid == 2 and beside} <= {
        CHUNK,
        (len(LONG) - 1) % CHUNK,
    }


def test_callers_take_turns_whatever_each_has_waiting(model: load.Model) -> None:
    stand = Stand(model, concurrency=1)
    flood = [job(rid, caller="flood") for rid in range(1, 6)]
    stand.run(*flood, job(6, caller="one"), job(7, caller="one"))
    assert order(stand) == [1, 6, 2, 7, 3, 4, 5]


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ({"tokens": 100}, {"tokens": 10}),
        ({"tokens": 1, "prompt": LONG[:100]}, {"tokens": 1, "prompt": [7] * 10}),
    ],
    ids=["answers", "prompts"],
)
def test_a_caller_is_charged_for_what_it_takes(
    model: load.Model, large: dict[str, Any], small: dict[str, Any]
) -> None:
    """One that asks for ten times as much gets a tenth of the turns."""
    stand = Stand(model, concurrency=1)
    much = [job(rid, caller="much", **large) for rid in (1, 2, 3)]
    little = [job(rid, caller="little", **small) for rid in range(10, 22)]
    stand.run(*much, *little)
    turns = order(stand)
    assert turns.index(2) - turns.index(1) >= 6
    assert sorted(turns) == [*(1, 2, 3), *range(10, 22)]


def test_within_a_caller_the_first_comes_first(model: load.Model) -> None:
    stand = Stand(model, concurrency=1)
    stand.run(*(job(rid, tokens=1 + rid % 3, caller="a") for rid in range(1, 8)))
    assert order(stand) == list(range(1, 8))


def test_nobody_passes_one_that_waits_for_memory_not_even_another_caller(model: load.Model) -> None:
    stand = Stand(model)
    row = model.price.cache(1, len(LONG) + 60)
    stand.into.limits = wire.Configure(
        context=4096, concurrency=8, prefill_chunk=CHUNK, memory=model.price.base + int(1.6 * row)
    )
    stand.put(Configured())
    came: list[int] = []

    def look() -> None:
        if not came and stand.tokens(1) >= 3:
            came.append(3)
            stand.put(job(3, tokens=2, caller="b"))

    stand.run(
        job(1, tokens=60, prompt=LONG, caller="a"),
        job(2, tokens=2, prompt=[9, *LONG], caller="a"),
        when=look,
        until={1, 2, 3},
    )
    assert order(stand) == [1, 2, 3]
    assert {stand.finish(rid) for rid in (1, 2, 3)} == {"length"}
