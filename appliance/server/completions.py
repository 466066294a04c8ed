"""POST /v1/completions"""

from __future__ import annotations

from typing import Any

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.server import body, generate, rows, schema
from appliance.server.caller import caller_of, signed
from appliance.server.chunks import WARNING, Chunks, Head, usage_of
from appliance.server.control import Control
from appliance.server.logprobs import Offsets
from appliance.server.replies import reply


def blueprint(control: Control) -> Blueprint:
    family = Blueprint("completions")

    async def completions(request: Request) -> HTTPResponse | None:
        control.router.check(caller_of(request))
        asked = await body.read(request, schema.CompletionRequest, control.spec().server.max_body)
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        ask = generate.Ask(
            model=asked.model,
            rows=rows.completion_rows(asked),
            format=lambda source: Chunks(Head.of("text", source, usage=usage)),
            per_prompt=asked.n or 1,
            caller=signed(request, asked, control),
        )
        if asked.stream:
            await generate.stream(request, control.router, ask)
            return None
        source, done = await generate.whole(control.router, ask)
        return reply(
            {
                **Head.of("text", source).members(chunk=False),
                "choices": [_choice(index, answer) for index, answer in enumerate(done)],
                "usage": usage_of(done, ask.per_prompt),
            }
        )

    family.add_route(completions, "/v1/completions", methods=["POST"], stream=True)
    return family


def _choice(index: int, answer: generate.Answer) -> dict[str, Any]:
    choice = {
        "index": index,
        "text": answer.text,
        "logprobs": Offsets().next(answer.logprobs) if answer.logprobs else None,
        "finish_reason": answer.finish,
    }
    if answer.warning is not None:
        choice[WARNING] = answer.warning
    return choice
