"""The first forward pass: compiles kernels, tries what the caches claim, and measures what they hold.

A cache may have a `merge` that fails for this model's shapes. Finding that out here, instead of with a
client's request, turns a failed stream into a model that is served one request at a time and says so.
Every way to pick a token is tried too, alone and beside others: its first use would otherwise stall the
streams of everybody.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import mlx.core as mx

from appliance.engine import costing, freed, head
from appliance.engine.beat import Gauge
from appliance.engine.choice import Choice
from appliance.engine.decode import Decoding
from appliance.engine.groups import UNMEASURED
from appliance.engine.layers import flat
from appliance.engine.load import Model, explain_run
from appliance.engine.output import Output
from appliance.engine.prefill import Prefill, Turn
from appliance.engine.pricing import measure
from appliance.engine.prompt import Job
from appliance.engine.row import Row
from appliance.engine.sampling import Processor, Samplers
from appliance.engine.wiring import working_set
from appliance.wire import Loaded

log = logging.getLogger(__name__)

CHOICES = (
    Choice(),
    Choice(temperature=1.0),
    Choice(temperature=1.0, top_p=0.9),
    Choice(temperature=1.0, min_p=0.1),
    Choice(temperature=1.0, top_k=2),
    Choice(temperature=1.0, top_p=0.9, min_p=0.1, top_k=2),
    Choice(repetition=1.1),
    Choice(presence=0.5, frequency=0.5),
    Choice(bias=((0, 1.0),)),
)
SEED = 1  # of the seeded rows


def up(model: Model, gauge: Gauge) -> Model:
    """Run it once alone and once in a batch; the model with what was found. Raises BadModel."""
    try:
        caches = attempt(model, [3], gauge)
    except Exception as error:  # the model's own code runs here for the first time
        raise explain_run(error, to_blame(model, gauge)) from error
    if model.batchable:
        try:
            attempt(model, [3, 2], gauge)
        except Exception as error:  # as above
            log.exception("two rows cannot be batched")
            why = f"a trial with two rows failed: {type(error).__name__}: {error}"
            model = dataclasses.replace(model, batch_why=why)
    try:
        sample(model, gauge)
    except Exception as error:  # as above
        raise explain_run(error) from error
    price = measure(flat(caches), 0, model.vocabulary)
    del caches
    cost = costing.measure(model, lambda rows: decoding(model, rows)) if model.batchable else UNMEASURED
    gauge.advance()
    found = head.find(model.net, model.kv_bits)
    freed.release()
    mx.reset_peak_memory()
    price = dataclasses.replace(price, base=mx.get_active_memory())
    return dataclasses.replace(model, price=price, cost=cost, head=found)


def to_blame(model: Model, gauge: Gauge) -> int | None:
    """The model's `kv_bits`, if it is what keeps the model from running: without it, it does."""
    if model.kv_bits is None:
        return None
    try:
        attempt(dataclasses.replace(model, kv_bits=None), [3], gauge)
    except Exception:  # noqa: BLE001  the first failure is told, and this one says whose it is
        return None
    return model.kv_bits


def attempt(model: Model, lengths: list[int], gauge: Gauge) -> list[Any]:
    """Prompts of these lengths through a prefill and some steps; in a batch, more join while it runs.

    The caches at the end: plain ones of one row, where there was one length.
    """
    decoding = Decoding(model.net)
    for _ in range(2 if len(lengths) > 1 else 1):
        prefill = Prefill(model.net, [trial(model, length) for length in lengths], model.kv_bits)
        prefill.advance(Turn(64))
        decoding.join(prefill)
        decoding.step()
        gauge.advance()
    decoding.step()
    decoding.step(last=True)
    gauge.advance()
    return decoding.cache


def decoding(model: Model, rows: int) -> Decoding:
    """A batch of short rows."""
    prefill = Prefill(model.net, [trial(model, 2) for _ in range(rows)], model.kv_bits)
    prefill.advance(Turn(64))
    return Decoding.of(model.net, prefill)


def sample(model: Model, gauge: Gauge) -> None:
    """All ways to pick a token, on real logits: each alone, and all in one batch."""
    samplers = Samplers()
    rows = [
        trial(model, 1, choice, seed, samplers)
        for choice in CHOICES
        for seed in (None, SEED)
        if seed is None or not choice.greedy
    ]
    together = rows if model.batchable else []
    logits = model.net(mx.array([[0]]))[:, -1, :]
    for group in ([row] for row in rows):
        Decoding(model.net, group).pick(mx.array([0]), logits)
    if together:
        many = mx.concatenate([logits] * len(together))
        Decoding(model.net, together).pick(mx.array([0] * len(together)), many)
    gauge.advance()


def trial(
    model: Model,
    length: int,
    choice: Choice = CHOICES[0],
    seed: int | None = None,
    samplers: Samplers | None = None,
) -> Row:
    prompt = [n % model.vocabulary for n in range(length)]
    job = Job(0, prompt, max_tokens=8, choice=choice, seed=seed, stop=(), ignore_eos=True)
    processor = None if choice.plain else Processor(choice, prompt)
    sampler = (samplers or Samplers()).get(choice, seed)
    return Row(job, Output(model.tokenizer, ()), sampler=sampler, processor=processor)


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
        working_set_bytes=working_set(),
        thinks=model.template.thinks,
        tool_parser=tool_parser(model),
    )


def tool_parser(model: Model) -> str | None:
    """The format found by its template, where that shows tools at all."""
    found = model.template.form("auto")
    return found.name if found is not None and model.template.offers else None


def backend() -> str:
    if mx.default_device() == mx.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"
