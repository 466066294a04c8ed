"""Builds the HTTP server: routes, guards and the one shape of every error.

There is no app at module level. `build` makes one for a `Control`; `Listeners` opens it on sockets in
the running event loop.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

from sanic import Sanic
from sanic.config import Config
from sanic.request import Request
from sanic.response import BaseHTTPResponse, HTTPResponse

from appliance.server import (
    admin,
    chat,
    completions,
    dashboard,
    embeddings,
    health,
    metrics,
    models,
    rerank,
    skills,
)
from appliance.server.caller import caller_of
from appliance.server.control import Control
from appliance.server.guards import Guards, mark
from appliance.server.listeners import Listeners
from appliance.server.messages import errors
from appliance.server.messages import routes as messages
from appliance.server.openapi import routes as openapi
from appliance.server.replies import error_reply, request_id
from appliance.server.responses import routes as responses
from appliance.server.ws import routes as ws

if TYPE_CHECKING:
    from appliance.access.limits import Charge

__all__ = ["Listeners", "build"]

WEEK = 7 * 24 * 3600
SETTINGS: dict[str, Any] = {
    "ACCESS_LOG": False,
    "AUTO_EXTEND": False,
    "MOTD": False,
    "KEEP_ALIVE_TIMEOUT": 120,
    "REQUEST_TIMEOUT": 120,
    # Counts inactivity of handler and response together: a long prefill would trip it. Streams guard
    # themselves (see sse), and engines have deadlines of their own.
    "RESPONSE_TIMEOUT": WEEK,
    "REQUEST_MAX_HEADER_SIZE": 16_384,
}
_numbers = itertools.count(1)


class Call(Request):
    """A request, or Sanic's stand-in for one it could not parse."""

    def __init__(self, url_bytes: bytes, headers: Any, version: str, method: str, **more: Any) -> None:
        if method == "NONE":  # the stand-in must not fail over the same bad URL again
            url_bytes = b"*"
        super().__init__(url_bytes, headers, version, method, **more)


def build(control: Control) -> Sanic[Any, Any]:
    config = Config(env_prefix=None)
    config.update(SETTINGS)
    app: Sanic[Any, Any] = Sanic(
        f"lmx-{next(_numbers)}", config=config, request_class=Call, configure_logging=False
    )
    listeners = app.ctx.listeners = Listeners(app)
    app.ctx.big_bodies = asyncio.Semaphore()
    guards = Guards(control)

    async def on_request(request: Request) -> HTTPResponse | None:
        listeners.say_close(request)
        return await guards.on_request(request)

    def note(request: Request, code: str) -> None:
        control.router.note(caller_of(request), code)

    app.ctx.note = note  # for error_reply: refusals that the router has not seen
    app.register_middleware(on_request, "request")

    async def on_response(request: Request, response: BaseHTTPResponse) -> None:
        response.headers["x-request-id"] = request_id(request)
        if errors.spoken(request.path, request.headers):
            response.headers["request-id"] = request_id(request)
        mark(request, control.spec().server, response.headers)
        charge: Charge | None = getattr(request.ctx, "charge", None)
        if charge is not None:
            response.headers.update(charge.allowance.headers())

    app.register_middleware(on_response, "response")
    app.error_handler.add(Exception, error_reply)
    for family in (
        dashboard.blueprint(control),
        openapi.blueprint(),
        health.blueprint(control),
        chat.blueprint(control),
        completions.blueprint(control),
        messages.blueprint(control),
        responses.blueprint(control),
        embeddings.blueprint(control),
        rerank.blueprint(control),
        ws.blueprint(control, listeners),
        models.blueprint(control),
        skills.blueprint(control),
        admin.blueprint(control, guards, listeners),
        metrics.blueprint(control),
    ):
        app.blueprint(family)
    return app
