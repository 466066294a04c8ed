"""POST /v1/messages and /v1/messages/count_tokens"""

from __future__ import annotations

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.server import body, generate
from appliance.server.caller import caller_of, signed
from appliance.server.control import Control
from appliance.server.counting import counted
from appliance.server.messages import answer, request, schema
from appliance.server.messages.window import Window
from appliance.server.replies import reply, request_id
from appliance.server.schema import Generate


def blueprint(control: Control) -> Blueprint:
    family = Blueprint("messages")

    async def messages(call: Request) -> HTTPResponse | None:
        control.router.check(caller_of(call))
        asked = await body.read(call, schema.MessageRequest, control.spec().server.max_body)
        wanted = request.read(asked)
        # user_id names a person, or with some clients a conversation too: it tells sessions apart.
        said = Generate(user=None if asked.metadata is None else asked.metadata.user_id)
        window = Window(control.router.open)
        ask = generate.Ask(
            model=asked.model,
            rows=[wanted.row],
            format=lambda source: answer.Events(
                source, request_id(call), hidden=wanted.hidden, room=window.room
            ),
            opener=window.open,
            caller=signed(call, said, control, left_out=wanted.left_out),
        )
        if asked.stream:
            await generate.stream(call, control.router, ask)
            return None
        source, [done] = await generate.whole(control.router, ask)
        return reply(answer.whole(source, done, hidden=wanted.hidden, room=window.room))

    async def count(call: Request) -> HTTPResponse:
        control.router.check(caller_of(call))
        asked = await body.read(call, schema.CountRequest, control.spec().server.max_body)
        wanted = request.read(asked)
        caller = signed(call, Generate(), control, left_out=wanted.left_out)
        tokens = await counted(control.router, asked.model, wanted.row, caller)
        return reply({"input_tokens": tokens})

    family.add_route(messages, "/v1/messages", methods=["POST"], stream=True)
    family.add_route(count, "/v1/messages/count_tokens", methods=["POST"], stream=True, name="count")
    return family
