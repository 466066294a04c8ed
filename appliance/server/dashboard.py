"""GET / : the dashboard, with its style and script. Read-only."""

from __future__ import annotations

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.dashboard.render import POLICY, asset
from appliance.server.control import Control

GET = ("GET", "HEAD")
ASSETS = {"dashboard.css": "text/css; charset=utf-8", "dashboard.js": "text/javascript; charset=utf-8"}


def blueprint(control: Control) -> Blueprint:
    family = Blueprint("dashboard")

    async def page(request: Request) -> HTTPResponse:
        body, tag = control.page()
        headers = {
            "etag": tag,
            "cache-control": "no-cache",
            "content-security-policy": POLICY,
            "referrer-policy": "no-referrer",
        }
        if request.headers.getone("if-none-match", None) == tag:
            return HTTPResponse(status=304, headers=headers)
        return HTTPResponse(body, headers=headers, content_type="text/html; charset=utf-8")

    async def part(request: Request) -> HTTPResponse:
        name = request.path[1:]  # one of ASSETS: no other path comes here
        return HTTPResponse(asset(name), headers={"cache-control": "no-cache"}, content_type=ASSETS[name])

    family.add_route(page, "/", methods=GET)
    for name in ASSETS:
        family.add_route(part, f"/{name}", methods=GET, name=name.replace(".", "-"))
    return family
