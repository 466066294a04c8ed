"""GET /healthz, /readyz and /status"""

from __future__ import annotations

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.server.control import Control
from appliance.server.replies import reply

GET = ("GET", "HEAD")


def blueprint(control: Control) -> Blueprint:
    family = Blueprint("health")

    async def healthz(_: Request) -> HTTPResponse:
        alive, reason = control.alive()
        return reply({"status": "ok"}) if alive else reply({"status": "failed", "reason": reason}, 503)

    async def readyz(_: Request) -> HTTPResponse:
        ready, what, message = control.ready()
        if ready:
            return reply({"ready": True, "model": what})
        return reply({"ready": False, "reason": what, "message": message}, 503)

    async def status(_: Request) -> HTTPResponse:
        return reply(control.status())

    family.add_route(healthz, "/healthz", methods=GET)
    family.add_route(readyz, "/readyz", methods=GET)
    family.add_route(status, "/status", methods=GET)
    return family
