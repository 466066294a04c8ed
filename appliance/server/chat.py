"""POST /v1/chat/completions"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.server import body, generate, rows, schema, skills
from appliance.server.caller import caller_of, signed
from appliance.server.chunks import DONE, SKILLS, WARNING, Chunks, Head, call_of, finish_of, sse, usage_of
from appliance.server.control import Control
from appliance.server.logprobs import chat_logprobs
from appliance.server.replies import reply
from appliance.supervisor.record import Caller


def blueprint(control: Control) -> Blueprint:
    family = Blueprint("chat")

    async def completions(request: Request) -> HTTPResponse | None:
        control.router.check(caller_of(request))
        asked = await body.read(request, schema.ChatRequest, control.spec().server.max_body)
        chosen = await skills.choose(control, asked)
        found = rows.chat(asked, chosen.tools)
        ask = ask_of(
            asked,
            found,
            signed(request, asked, control, left_out=found.left_out),
            opener=chosen.opener(control, found),
        )
        if asked.stream:
            await generate.stream(request, control.router, ask)
            return None
        source, done = await generate.whole(control.router, ask)
        return reply(
            {
                **Head.of("chat", source).members(chunk=False),
                "choices": [_choice(index, answer) for index, answer in enumerate(done)],
                "usage": usage_of(done, ask.per_prompt),
            }
        )

    family.add_route(completions, "/v1/chat/completions", methods=["POST"], stream=True)
    return family


def ask_of(
    asked: schema.ChatRequest,
    found: rows.Chat,
    caller: Caller,
    *,
    id: str | None = None,
    frame: Callable[[bytes], bytes] = sse,
    done: bytes = DONE,
    opener: generate.Opener | None = None,
) -> generate.Ask:
    """A checked body as a question. id, frame, done: of its chunks, where they are no Server-Sent Events."""
    usage = bool(asked.stream_options and asked.stream_options.include_usage)
    return generate.Ask(
        model=asked.model,
        rows=found.rows,
        format=lambda source: Chunks(Head.of("chat", source, usage=usage, id=id), frame=frame, done=done),
        per_prompt=asked.n or 1,
        caller=caller,
        opener=opener,
    )


def _choice(index: int, answer: generate.Answer) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if answer.calls and not answer.text else answer.text,
        "refusal": None,
    }
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [call_of(call) for call in answer.calls]
    if answer.steps:
        message[SKILLS] = [step.shown() for step in answer.steps]
    choice = {
        "index": index,
        "message": message,
        "logprobs": chat_logprobs(answer.logprobs) if answer.logprobs else None,
        "finish_reason": finish_of(answer),
    }
    if answer.warning is not None:
        choice[WARNING] = answer.warning
    return choice
