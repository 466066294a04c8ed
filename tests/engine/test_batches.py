"""Rows say the same in whatever batches they decode, and however often they are moved between them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import wire
from appliance.engine import costing, load, warm, weights
from appliance.engine.batches import Batches, priced
from appliance.engine.beat import Gauge
from appliance.engine.choice import Choice
from appliance.engine.decode import LAUNCH_WAITS, Decoding
from appliance.engine.groups import Cost
from appliance.engine.load import Model
from appliance.engine.output import Output
from appliance.engine.prefill import Prefill, Turn
from appliance.engine.prompt import Job
from appliance.engine.row import Row
from appliance.engine.sampling import greedy
from tests.engine import models
from tests.engine.stand import Stand, job

SHAPES = {"dense": models.QWEN3, "sliding": models.GEMMA3, "hybrid": models.QWEN3_NEXT}
APART = Cost(fixed=1e-3, per_token=1e-4)  # ten tokens more are worth a batch of one's own


@pytest.fixture(scope="module", params=[*SHAPES, "quantised"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    shape = SHAPES.get(request.param, {**models.QWEN3, "head_dim": 32})
    folder = models.write(tmp_path_factory.mktemp("model") / request.param, shape)
    order = wire.Load(model="test", path=str(folder), kv_bits=None if request.param in SHAPES else 8)
    return warm.up(load.load(order, weights.check(order), lambda done, total: None), Gauge())


@pytest.fixture
def dense(folder: Path) -> Model:
    order = wire.Load(model="test", path=str(folder))
    return load.load(order, weights.check(order), lambda done, total: None)


def row(model: Model, number: int, length: int, tokens: int) -> Row:
    words = [(7 * n + 13 * number) % model.vocabulary for n in range(length)]
    made = Job(number, words, tokens, Choice(), seed=None, stop=(), ignore_eos=True)
    return Row(made, Output(model.tokenizer, ()), sampler=greedy, processor=None)


def begun(model: Model, one: Row) -> Decoding:
    prefill = Prefill(model.net, [one], model.kv_bits)
    while prefill.left:
        prefill.advance(Turn(64))
    return Decoding.of(model.net, prefill)


LENGTHS = (3, 40, 41, 90, 300)


def alone(model: Model, steps: int) -> Iterator[list[int]]:
    for number, length in enumerate(LENGTHS):
        one = row(model, number, length, steps + 10)
        batch = begun(model, one)
        for _ in range(steps):
            batch.step()
        yield one.tokens


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_moving_rows_between_batches_changes_no_token(model: Model, seed: int) -> None:
    chance, steps = random.Random(seed), 40
    rows = [row(model, number, length, steps + 10) for number, length in enumerate(LENGTHS)]
    batches = [begun(model, one) for one in rows]
    for _ in range(steps):
        if chance.random() < 0.5:
            one = chance.choice(batches)
            taken = chance.sample(one.rows, chance.randint(0, len(one.rows)))
            batches.append(one.take(taken))
        if chance.random() < 0.5 and len(batches) > 1:
            one, other = chance.sample(batches, 2)
            one.absorb(other)
        batches = [batch for batch in batches if batch.rows]
        assert sorted(one.job.rid for batch in batches for one in batch.rows) == list(range(len(LENGTHS)))
        for batch in batches:
            if batch.opens and chance.random() < 0.7:
                batch.first()
            else:
                batch.step()
    for one, expected in zip(rows, alone(model, steps), strict=True):
        shorter = min(len(one.tokens), len(expected))
        assert shorter >= steps - 2
        assert one.tokens[:shorter] == expected[:shorter]


@pytest.mark.skipif(not LAUNCH_WAITS, reason="elsewhere a launch returns at once")
def test_first_tokens_read_ahead_are_told_once_and_held_when_they_are_computed(dense: Model) -> None:
    one, other = (row(dense, number, 40, 20) for number in (1, 1))
    batch, plain = begun(dense, one), begun(dense, other)

    def holds() -> int:
        assert len(batch.held(one)) == batch.cache[0].offset
        return len(batch.held(one))

    assert not batch.opens
    assert batch.step() == []
    assert batch.opens
    assert holds() == 40
    told = batch.first()
    assert not batch.opens
    assert holds() == 40, "it has been read, and goes into the next step"
    assert batch.step() == []
    assert holds() == 41
    for _ in range(5):
        told += batch.step()
    told += batch.step(last=True)
    assert holds() == 46
    assert [token for _, token in told] == one.tokens
    for _ in range(8):
        plain.step()
    assert one.tokens == other.tokens


def test_what_a_step_costs_is_measured_and_believable(model: Model) -> None:
    cost = costing.measure(model, lambda rows: warm.decoding(model, rows))
    assert 0 < cost.fixed < 5
    assert 0 < cost.per_token < cost.fixed, "a token costs less than a pass over all weights"


def test_a_batch_with_long_rows_is_as_long_as_it_says(model: Model) -> None:
    batch = warm.decoding(model, 2)
    tokens, size = costing.lengthen(batch, 1000)
    assert tokens == 1000 - costing.SHORT
    growing = [layer.per_token for layer in model.price.layers if layer.window is None]
    assert size == sum(growing)
    batch.step()
    assert len(batch.step()) == 2


def test_rows_of_one_length_share_a_batch_and_a_long_one_has_its_own(dense: Model) -> None:
    dense = dataclasses.replace(dense, cost=APART)
    batches = Batches(dense)
    rows = [row(dense, number, length, 300) for number, length in enumerate((20, 900, 21, 19))]
    for one in rows:
        batches.all.append(begun(dense, one))
        batches.arrange(lambda priced: True)
    assert sorted(len(batch.rows) for batch in batches.all) == [1, 3]
    assert batches.of(1) == (next(batch for batch in batches.all if len(batch.rows) == 1), rows[1])
    batches.remove(batches.all[0], batches.all[0].rows)
    assert len(batches.all) == 1


def test_batches_that_memory_does_not_allow_are_not_made(dense: Model) -> None:
    batches = Batches(dense)
    for number in range(3):
        batches.all.append(begun(dense, row(dense, number, 20, 300)))
        batches.arrange(lambda all_of_them: max(one.rows for one in all_of_them) <= 2)
    assert sorted(len(batch.rows) for batch in batches.all) == [1, 2]
    assert priced(batches.rows).tokens == 320


@pytest.mark.parametrize("cost", [APART, Cost()], ids=["several batches", "one batch"])
def test_answers_do_not_depend_on_how_rows_are_divided(dense: Model, cost: Cost) -> None:
    stand = Stand(dataclasses.replace(dense, cost=cost))
    jobs = [job(n, tokens=20 + 7 * n, prompt=[n + 3] * (5 + 60 * (n % 3) * n)) for n in range(1, 9)]
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, len(stand.scheduler._running._decoding.all))

    stand.run(*jobs, when=look)
    assert most > 1 if cost is APART else most == 1
    for one in jobs:
        single = Stand(dense)
        single.run(one)
        assert stand.text(one.rid) == single.text(one.rid)
        assert stand.tokens(one.rid) == one.max_tokens


def test_a_step_that_fails_leaves_the_other_batches_alone(
    dense: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = Stand(dataclasses.replace(dense, cost=APART))
    step = Decoding.step

    def fault(batch: Decoding, *, last: bool = False) -> object:
        if any(one.job.rid == 1 and one.produced > 5 for one in batch.rows):
            raise RuntimeError("the device went away")
        return step(batch, last=last)

    monkeypatch.setattr(Decoding, "step", fault)
    stand.run(job(1, tokens=90, prompt=[5] * 800), job(2, tokens=90), job(3, tokens=90))
    assert [stand.finish(rid) for rid in (1, 2, 3)] == ["error", "length", "length"]
