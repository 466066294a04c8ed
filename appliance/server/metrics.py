"""GET /metrics, for Prometheus and whatever reads its forms"""

from __future__ import annotations

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.server.control import Control
from appliance.server.health import GET


def blueprint(control: Control) -> Blueprint:
    family = Blueprint("metrics")

    async def metrics(request: Request) -> HTTPResponse:
        body, content_type = control.metrics(request.headers.getone("accept", ""))
        return HTTPResponse(body, content_type=content_type)

    family.add_route(metrics, "/metrics", methods=GET)
    return family
