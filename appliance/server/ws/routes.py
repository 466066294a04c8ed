"""GET /v1/ws"""

from __future__ import annotations

import asyncio

from sanic import Blueprint
from sanic.request import Request

from appliance.server.control import Control
from appliance.server.listeners import Listeners
from appliance.server.ws.session import Session


def blueprint(control: Control, listeners: Listeners) -> Blueprint:
    family = Blueprint("ws")

    async def ws(request: Request) -> None:
        session = Session(control, request)
        closing = asyncio.ensure_future(listeners.closing(request))
        closing.add_done_callback(lambda task: None if task.cancelled() else session.wind_down())
        try:
            await session.run()
        finally:
            closing.cancel()

    ws.is_websocket = True  # type: ignore[attr-defined]  # to Sanic: no response object is to be expected
    # stream=True: a body is not read for the sake of a refusal
    family.add_route(ws, "/v1/ws", methods=["GET"], stream=True)
    return family
