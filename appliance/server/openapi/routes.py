"""GET /openapi.json and GET /docs"""

from __future__ import annotations

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.server.health import GET

# A new version of LMX has a new document; until then a client asks and gets the same.
_FRESH = {"cache-control": "no-cache"}


def blueprint() -> Blueprint:
    family = Blueprint("openapi")

    # Imported when somebody asks: an appliance that nobody asks does without the structures and their memory.

    async def openapi(_: Request) -> HTTPResponse:
        from appliance.server.openapi.document import encoded

        return HTTPResponse(encoded(), headers=_FRESH, content_type="application/json")

    async def docs(_: Request) -> HTTPResponse:
        from appliance.server.openapi import page as pages

        headers = {**_FRESH, "content-security-policy": pages.POLICY, "referrer-policy": "no-referrer"}
        return HTTPResponse(pages.page(), headers=headers, content_type="text/html; charset=utf-8")

    async def style(_: Request) -> HTTPResponse:
        from appliance.server.openapi import page as pages

        return HTTPResponse(pages.style(), headers=_FRESH, content_type="text/css; charset=utf-8")

    family.add_route(openapi, "/openapi.json", methods=GET)
    family.add_route(docs, "/docs", methods=GET)
    family.add_route(style, "/docs.css", methods=GET)
    return family
