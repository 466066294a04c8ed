"""GET /v1/models and /v1/models/{id}: what the spec names, and nothing else; for clients of Anthropic's in
their shape."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.errors import ApiError
from appliance.server.control import Control
from appliance.server.health import GET
from appliance.server.messages import errors, models
from appliance.server.query import given
from appliance.server.replies import reply

if TYPE_CHECKING:
    from appliance.access.keyring import Key


def blueprint(control: Control) -> Blueprint:
    family = Blueprint("models")
    started = int(time.time())

    def entry(model: dict[str, Any]) -> dict[str, Any]:
        return {"object": "model", "created": started, "owned_by": "lmx", **model}

    def known_to(request: Request) -> list[dict[str, Any]]:
        """Those that the caller's key may use; without keys, all."""
        key: Key | None = getattr(request.ctx, "key", None)
        return [model for model in control.models() if key is None or key.may_use(model["id"])]

    async def listing(request: Request) -> HTTPResponse:
        if errors.spoken(request.path, request.headers):
            return reply(models.page(given(request), known_to(request), started))
        return reply({"object": "list", "data": [entry(model) for model in known_to(request)]})

    async def one(request: Request, name: str) -> HTTPResponse:
        name = unquote(name)
        known = known_to(request)
        for model in known:
            if name == model["id"] or name in model.get("aliases", ()):
                if errors.spoken(request.path, request.headers):
                    return reply(models.entry(model, started))
                return reply(entry(model))
        names = ", ".join(model["id"] for model in known) or "none"
        raise ApiError(
            "model_not_found", f"there is no model {name[:100]!r} here; there is: {names}", param="model"
        )

    family.add_route(listing, "/v1/models", methods=GET)
    family.add_route(one, "/v1/models/<name:path>", methods=GET)
    return family
