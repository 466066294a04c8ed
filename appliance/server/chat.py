"""POST /v1/chat/completions"""

from __future__ import annotations

from typing import Any

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.server import body, generate, rows, schema
from appliance.server.caller import caller_of, signed
from appliance.server.control import Control
from appliance.server.replies import reply


def blueprint(control: Control) -> Blueprint:
    family = Blueprint("chat")

    async def completions(request: Request) -> HTTPResponse | None:
        control.router.check(caller_of(request))
        asked = await body.read(request, schema.ChatRequest, control.spec().server.max_body)
        found = rows.chat(asked)
        ask = generate.Ask(
            family="chat",
            model=asked.model,
            rows=found.rows,
            per_prompt=asked.n or 1,
            include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
            caller=signed(request, asked, control, left_out=found.left_out),
        )
        if asked.stream:
            await generate.stream(request, control.router, ask)
            return None
        head, done = await generate.whole(control.router, ask)
        return reply(
            {
                **head.members(chunk=False),
                "choices": [_choice(index, row) for index, row in enumerate(done)],
                "usage": generate.usage(done, ask.per_prompt),
            }
        )

    family.add_route(completions, "/v1/chat/completions", methods=["POST"], stream=True)
    return family


def _choice(index: int, row: generate.Row) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": row.text, "refusal": None},
        "logprobs": None,
        "finish_reason": row.finish,
    }
