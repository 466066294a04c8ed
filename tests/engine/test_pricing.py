"""What a batch is priced at, against what its caches really come to."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import mlx.core
import pytest

from appliance import wire
from appliance.engine import layers, load, warm, weights
from appliance.engine.beat import Gauge
from appliance.engine.choice import Choice
from appliance.engine.decode import Decoding
from appliance.engine.load import Model
from appliance.engine.output import Output
from appliance.engine.prefill import Prefill, Turn
from appliance.engine.pricing import STEP, Batch, Price
from appliance.engine.prompt import Job
from appliance.engine.row import Row
from appliance.engine.sampling import greedy
from appliance.hub import find
from reconciler import forecast
from tests.engine import models

mx: Any = mlx.core

CHUNK = 256
SHAPES = {"dense": models.QWEN3, "sliding": models.GEMMA3, "hybrid": models.QWEN3_NEXT}


@pytest.fixture(scope="module", params=list(SHAPES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("model") / request.param, SHAPES[request.param])


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    gc.collect()  # what is held while nothing runs is measured: nothing of other tests may be left
    order = wire.Load(model="test", path=str(folder))
    return warm.up(load.load(order, weights.check(order), lambda done, total: None), Gauge())


def row(model: Model, prompt: int, tokens: int) -> Row:
    words = [(7 * n) % model.vocabulary for n in range(prompt)]
    job = Job(prompt, words, tokens, Choice(), seed=None, stop=(), ignore_eos=True)
    return Row(job, Output(model.tokenizer, ()), sampler=greedy, processor=None)


def held(caches: list[Any]) -> int:
    return sum(int(cache.nbytes) for cache in layers.flat(caches))


def run(model: Model, rows: list[Row]) -> int:
    """Bytes of the caches at their largest, once all rows decode; they begin one after the other."""
    decoding, most = Decoding(model.net), 0
    for one in rows:
        prefill = Prefill(model.net, [one], model.kv_bits)
        while prefill.left:
            prefill.advance(Turn(CHUNK))
        decoding.join(prefill)
    while any(one.produced < one.job.max_tokens for one in rows):
        decoding.step()
        most = max(most, held(decoding.cache))
        decoding.keep([one for one in decoding.rows if one.produced < one.job.max_tokens])
    return most


@pytest.mark.parametrize(("prompt", "tokens"), [(40, 20), (700, 60), (1000, 300)])
def test_one_row_is_priced_within_two_percent(model: Model, prompt: int, tokens: int) -> None:
    assert run(model, [row(model, prompt, tokens)]) == pytest.approx(
        model.price.cache(1, prompt + tokens), rel=0.02
    )


@pytest.mark.parametrize("lengths", [[(600, 100)] * 3, [(1200, 40), (30, 30), (90, 90)]])
def test_a_batch_is_never_more_and_at_most_one_step_less(
    model: Model, lengths: list[tuple[int, int]]
) -> None:
    seen = run(model, [row(model, prompt, tokens) for prompt, tokens in lengths])
    price = model.price.cache(len(lengths), max(map(sum, lengths)))
    step = len(lengths) * STEP * sum(layer.per_token for layer in model.price.layers if layer.window is None)
    assert seen <= price
    assert seen >= price * 0.98 - step


def test_what_runs_alone_is_the_most_that_fits(model: Model) -> None:
    limits = wire.Configure(context=2048, prefill_chunk=CHUNK, workspace=2**20)
    assert model.price.largest(limits) == 2048, "without a limit"
    for tokens in (1, 256, 257, 1800):
        need = model.price.one(tokens, limits)
        there = wire.Configure(context=2048, prefill_chunk=CHUNK, workspace=2**20, memory=need)
        assert tokens <= model.price.largest(there) < tokens + STEP or model.price.largest(there) == 2048
        assert model.price.alone(model.price.largest(there), there)
        assert not model.price.alone(tokens, wire.Configure(**{**fields(there), "memory": need - 1}))


@pytest.mark.parametrize("context", [512, 2048])
def test_one_request_at_the_ceiling_fits_into_what_the_forecast_let_the_engine_in_for(
    folder: Path, model: Model, context: int
) -> None:
    priced = forecast.forecast(find(str(folder)), context=context, prefill_chunk=CHUNK, backend="cpu")
    limits = wire.Configure(context=context, prefill_chunk=CHUNK, workspace=priced.workspace)
    assert model.price.one(context, limits) <= (priced.total - priced.process) * 1.01 + 2**16


def fields(message: wire.Configure) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__}


def test_nothing_is_refused_by_a_price_that_was_not_measured() -> None:
    assert Price().fits([Batch(8, 10**6)], wire.Configure(context=10**6, memory=1))


def test_base_is_what_is_held_while_nothing_runs(model: Model) -> None:
    assert model.weights_bytes <= model.price.base <= model.weights_bytes * 1.05 + 2**20
