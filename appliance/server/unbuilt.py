"""Routes that belong to the interface and are not built yet: refused by name, not as unknown paths."""

from __future__ import annotations

from sanic import Blueprint
from sanic.request import Request

from appliance.errors import ApiError

ROUTES: dict[str, str] = {
    "/v1/embeddings": "POST",
    "/v1/rerank": "POST",
}


def blueprint() -> Blueprint:
    family = Blueprint("unbuilt")

    async def refuse(request: Request) -> None:
        raise ApiError("not_supported", f"{request.path} is not supported yet")

    for path, method in ROUTES.items():
        # stream=True: a body is not read for the sake of a refusal
        family.add_route(refuse, path, methods=[method], stream=True, name=path.strip("/").replace("/", "-"))
    return family
