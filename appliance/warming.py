"""Warm-up on request: short generations over the usual road, so that the first client finds a warm model.

They page an on_demand model in like any request would. The engine has compiled its shapes when it
loaded; what is left is everything between the router and the first token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor.generation import Generation
from appliance.supervisor.order import Template
from appliance.supervisor.record import Caller
from appliance.supervisor.router import Router

TOKENS = 8  # of each row
PROMPT = "The first request of the day should not be the slowest one."
MOST_ROWS = 8
CALLER = Caller(path="/admin/warmup", own=True)


def batches(concurrency: int) -> list[int]:
    """How many rows run together, one after the other: 1, 2, 4 and so on."""
    return [rows for rows in (1, 2, 4, MOST_ROWS) if rows == 1 or rows <= concurrency]


async def warm(
    router: Router, model: str, within: float, templates: Sequence[Template] = ()
) -> dict[str, Any]:
    """Load the model if need be, at most `within` seconds, and run. Raises ApiError.

    templates: what `models.*.warmup` names; one that fails is told of, and stops nothing.
    """
    began = time.monotonic()
    await _until_it_answers(router, model, began + within)
    ready = time.monotonic() - began
    route = router.table.routes.get(model)
    runs = [await _run(router, model, rows) for rows in batches(1 if route is None else route.concurrency)]
    return {
        "success": True,
        "model": model,
        "first_answer_ms": round(ready * 1000, 1),
        "runs": runs,
        "templates": [await _read(router, model, template) for template in templates],
    }


async def _read(router: Router, model: str, template: Template) -> dict[str, Any]:
    """Put one conversation into the prompt cache."""
    if template.submit is None:
        return {"name": template.name, "error": template.problem}
    began = time.monotonic()
    try:
        async with await router.open(model, template.submit, bounded=False, caller=CALLER) as generation:
            await generation.collect()
    except ApiError as error:
        return {"name": template.name, "error": error.message}
    return {
        "name": template.name,
        "ms": round((time.monotonic() - began) * 1000, 1),
        "prompt_tokens": generation.prompt_tokens,
        "cached_tokens": generation.cached_tokens,
    }


async def _until_it_answers(router: Router, model: str, deadline: float) -> None:
    """A load may take longer than a request waits in the queue: then ask again."""
    while True:
        try:
            await _run(router, model, 1)
            return
        except ApiError as error:
            if error.code != "model_swapping" or time.monotonic() >= deadline:
                raise


def _question(router: Router, model: str) -> wire.Embed | wire.Rank | None:
    """What an encoder is asked instead. None: it is a chat model."""
    route = router.table.routes.get(model)
    if route is None or route.role == "chat":
        return None
    return wire.Embed(0, [PROMPT]) if route.role == "embedding" else wire.Rank(0, PROMPT, [PROMPT])


async def _run(router: Router, model: str, rows: int) -> dict[str, Any]:
    """So many rows side by side. ttft_ms: of the slowest of them; encoders have none."""
    ask = wire.Submit(0, prompt=PROMPT, sampling=wire.Sampling(max_tokens=TOKENS), ignore_eos=True)
    clock = asyncio.get_running_loop().time  # a first token is told by the same
    began = clock()
    question = _question(router, model)
    if question is not None:
        await asyncio.gather(*(router.ask(model, question, caller=CALLER) for _ in range(rows)))
        return {"rows": rows, "ms": round((clock() - began) * 1000, 1)}

    async def one() -> Generation:
        async with await router.open(model, ask, bounded=False, caller=CALLER) as generation:
            await generation.collect()
            return generation

    done = []
    for outcome in await asyncio.gather(*(one() for _ in range(rows)), return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        done.append(outcome)
    took = max(clock() - began, 0.001)
    tokens = sum(generation.tokens for generation in done)
    return {
        "rows": rows,
        "ms": round(took * 1000, 1),
        "ttft_ms": round(max(generation.ttft or 0.0 for generation in done) * 1000, 1),
        "tokens_per_s": round(tokens / took, 1),
    }
