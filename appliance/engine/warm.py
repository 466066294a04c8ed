"""The first forward pass: compiles kernels, and tries what the caches claim.

A cache may have a `merge` that fails for this model's shapes. Finding that out here, instead of with a
client's request, turns a failed stream into a model that is served one request at a time and says so.
"""

from __future__ import annotations

import dataclasses
import logging

import mlx.core as mx

from appliance.engine.beat import Gauge
from appliance.engine.choice import Choice
from appliance.engine.decode import Decoding, Prefill, Row
from appliance.engine.load import Model, explain_run
from appliance.engine.output import Output
from appliance.engine.prompt import Job
from appliance.engine.sampling import greedy
from appliance.wire import Loaded

log = logging.getLogger(__name__)


def up(model: Model, gauge: Gauge) -> Model:
    """Run it once alone and once in a batch; the model with what was found. Raises BadModel."""
    try:
        attempt(model, [3], gauge)
    except Exception as error:  # the model's own code runs here for the first time
        raise explain_run(error) from error
    if model.batchable:
        try:
            attempt(model, [3, 2], gauge)
        except Exception as error:  # as above
            log.exception("two rows cannot be batched")
            why = f"a trial with two rows failed: {type(error).__name__}: {error}"
            model = dataclasses.replace(model, batch_why=why)
    mx.clear_cache()
    mx.reset_peak_memory()
    return model


def attempt(model: Model, lengths: list[int], gauge: Gauge) -> None:
    """Prompts of these lengths through a prefill and some steps; in a batch, more join while it runs."""
    decoding = Decoding(model.net)
    for _ in range(2 if len(lengths) > 1 else 1):
        prefill = Prefill(model.net, [trial(model, length) for length in lengths])
        prefill.advance(64)
        decoding.join(prefill)
        decoding.step()
        gauge.advance()
    decoding.step()
    decoding.step(last=True)
    gauge.advance()


def trial(model: Model, length: int) -> Row:
    prompt = [n % model.vocabulary for n in range(length)]
    job = Job(0, prompt, max_tokens=8, choice=Choice(), seed=None, stop=(), ignore_eos=True)
    return Row(job, Output(model.tokenizer, ()), sampler=greedy, processor=None)


def loaded(model: Model, seconds: float, blas: str | None) -> Loaded:
    return Loaded(
        model_type=model.model_type,
        load_s=seconds,
        weights_bytes=model.weights_bytes,
        active_bytes=mx.get_active_memory(),
        context_max=model.context_max,
        batchable=model.batchable,
        batch_why=model.batch_why,
        backend=backend(),
        blas=blas,
    )


def backend() -> str:
    if mx.default_device() == mx.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"
