"""/v1/responses: create, look at, delete; and /v1/responses/input_tokens"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.errors import ApiError
from appliance.server import body, generate, query
from appliance.server.caller import caller_of, signed
from appliance.server.control import Control
from appliance.server.counting import counted
from appliance.server.health import GET
from appliance.server.parts import Parts
from appliance.server.replies import reply
from appliance.server.responses import request, schema
from appliance.server.responses.answer import Events, Shape
from appliance.server.responses.kept import Kept
from appliance.server.schema import Generate
from appliance.supervisor.record import Caller

PAGE = 20
MOST_ON_A_PAGE = 100


def blueprint(control: Control) -> Blueprint:
    family = Blueprint("responses")
    kept = Kept()

    def read(call: Request, asked: schema.Prompt, said: Generate) -> tuple[request.Wanted, Caller]:
        caller = signed(call, said, control)
        earlier = (
            kept.conversation(caller.key, asked.previous_response_id) if asked.previous_response_id else []
        )
        wanted = request.read(asked, earlier)
        return wanted, signed(call, said, control, left_out=wanted.left_out)

    async def create(call: Request) -> HTTPResponse | None:
        control.router.check(caller_of(call))
        asked = await body.read(call, schema.ResponseRequest, control.spec().server.max_body)
        said = Generate(user=asked.user, prompt_cache_key=asked.prompt_cache_key)
        wanted, caller = read(call, asked, said)

        def keep(response: dict[str, Any]) -> None:
            if asked.store is not False:
                kept.put(caller.key, response, wanted.given)

        ask = generate.Ask(
            model=asked.model,
            rows=[wanted.row],
            format=lambda source: Events(_shape(source, wanted), keep),
            caller=caller,
        )
        if asked.stream:
            await generate.stream(call, control.router, ask)
            return None
        return reply(await _whole(control, ask, wanted, keep))

    async def count(call: Request) -> HTTPResponse:
        control.router.check(caller_of(call))
        asked = await body.read(call, schema.CountRequest, control.spec().server.max_body)
        wanted, caller = read(call, asked, Generate())
        tokens = await counted(control.router, asked.model, wanted.row, caller)
        return reply({"object": "response.input_tokens", "input_tokens": tokens})

    async def show(call: Request, name: str) -> HTTPResponse:
        asked = query.given(call)
        for option in ("stream", "include", "starting_after"):
            if asked.get(option, "false") != "false" or f"{option}[]" in asked:
                raise ApiError("not_supported", f"{option} is not supported here", param=option)
        return HTTPResponse(kept.response(_scope(call), name), content_type="application/json")

    async def forget(call: Request, name: str) -> HTTPResponse:
        kept.forget(_scope(call), name)
        return reply({"id": name, "object": "response", "deleted": True})

    async def given(call: Request, name: str) -> HTTPResponse:
        return reply(_page(call, kept.given(_scope(call), name)))

    def _scope(call: Request) -> str:
        return signed(call, Generate(), control).key

    family.add_route(create, "/v1/responses", methods=["POST"], stream=True)
    family.add_route(count, "/v1/responses/input_tokens", methods=["POST"], stream=True)
    family.add_route(show, "/v1/responses/<name>", methods=GET)
    family.add_route(forget, "/v1/responses/<name>", methods=["DELETE"], name="forget")
    family.add_route(given, "/v1/responses/<name>/input_items", methods=GET)
    return family


def _shape(source: generate.Source, wanted: request.Wanted) -> Shape:
    return Shape(source, wanted.said, sealed=wanted.sealed, logprobs=wanted.row.logprobs is not None)


async def _whole(
    control: Control, ask: generate.Ask, wanted: request.Wanted, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    if wanted.row.logprobs is None:
        source, [answer] = await generate.whole(control.router, ask)
        response = _shape(source, wanted).ended(answer, Parts.of(answer))
    else:
        response = await _piecewise(control, ask, wanted)
    keep(response)
    return response


async def _piecewise(control: Control, ask: generate.Ask, wanted: request.Wanted) -> dict[str, Any]:
    """Only what comes piece by piece tells which tokens are of the text."""
    made: list[dict[str, Any]] = []
    begun = await generate.first(control.router, ask, bounded=False)
    async with begun:
        events = Events(_shape(begun, wanted), made.append)
        await generate.answer(control.router, ask, begun, events, _Nowhere())
    return made[0]


class _Nowhere:
    """A `generate.Out` for nobody."""

    def write(self, data: bytes) -> bool:
        return False

    async def drain(self) -> None:
        return


def _page(call: Request, items: list[dict[str, Any]]) -> dict[str, Any]:
    """Newest first, unless `order` is asc."""
    asked = query.given(call)
    order = asked.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiError("invalid_request", "order: is asc or desc", param="order")
    limit = str(asked.get("limit", PAGE))
    if not limit.isdecimal() or not 1 <= int(limit[:4]) <= MOST_ON_A_PAGE:
        raise ApiError("invalid_request", f"limit: must be from 1 to {MOST_ON_A_PAGE}", param="limit")
    for option in ("include", "include[]", "before"):
        if option in asked:
            raise ApiError("not_supported", f"{option} is not supported here", param=option)
    if order == "desc":
        items.reverse()
    after = asked.get("after")
    if after is not None:
        names = [item["id"] for item in items]
        if after not in names:
            raise ApiError("invalid_request", "after: there is no such item", param="after")
        items = items[names.index(after) + 1 :]
    page = items[: int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": len(items) > len(page),
    }
