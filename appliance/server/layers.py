"""/admin/try, confirm, rollback and suspend: what lies over the file, and who laid it there."""

from __future__ import annotations

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.errors import ApiError
from appliance.server import body, schema
from appliance.server.control import Control
from appliance.server.fields import invalid, seconds
from appliance.server.guards import Guards, peer_of
from appliance.server.health import GET
from appliance.server.query import only
from appliance.server.replies import reply

LONGEST_NAME = 64
LONGEST_FILE = 200
NOBODY = schema.ByRequest()


def add(family: Blueprint, control: Control, guards: Guards) -> None:
    """The routes, on the blueprint of /admin."""

    async def by_request(request: Request) -> str:
        asked = await body.read(request, schema.ByRequest, control.spec().server.max_body, empty=NOBODY)
        return who(request, asked.by)

    async def tried(request: Request) -> HTTPResponse:
        only(request, ())
        return reply(control.trying.state())

    async def begin(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        asked = await body.read(request, schema.TryRequest, control.spec().server.max_body)
        name = _plain(asked.file or "the tried file", "file", LONGEST_FILE)
        by = who(request, asked.by)
        return reply(await control.trying.begin(asked.spec, name, seconds(asked.for_, "for"), by))

    async def end(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        return reply(control.trying.end(who(request, None)))

    async def confirm(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        return reply(await control.trying.confirm(await by_request(request)))

    async def rollback_of(request: Request) -> HTTPResponse:
        (number,) = only(request, ("generation",))
        return reply(control.trying.rollback_of(None if number is None else _generation(number)))

    async def roll_back(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        limit = control.spec().server.max_body
        asked = await body.read(request, schema.RollbackRequest, limit, empty=schema.RollbackRequest())
        number, by = asked.generation, who(request, asked.by)
        if number is not None and not 0 < number <= MOST_GENERATIONS:
            raise invalid("generation", f"is a number from 1, found {number}")
        return reply(await control.trying.roll_back(number, seconds(asked.for_, "for"), by))

    async def suspend(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        return reply(await control.trying.suspend(await by_request(request)))

    async def resume(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        return reply(await control.trying.resume())

    family.add_route(tried, "/try", methods=GET, name="tried")
    family.add_route(begin, "/try", methods=["POST"], stream=True, name="try")
    family.add_route(end, "/try", methods=["DELETE"], name="end_try")
    family.add_route(confirm, "/confirm", methods=["POST"], stream=True)
    family.add_route(rollback_of, "/rollback", methods=GET)
    family.add_route(roll_back, "/rollback", methods=["POST"], stream=True)
    family.add_route(suspend, "/suspend", methods=["POST"], stream=True)
    family.add_route(resume, "/suspend", methods=["DELETE"])


MOST_GENERATIONS = 10**12


def who(request: Request, claimed: str | None) -> str:
    """By the key's name and the address, which are so, and by what the caller says of itself."""
    key = getattr(request.ctx, "key", None)
    name = f"key {key.name}" if key is not None else ""
    said = _plain(claimed, "by", LONGEST_NAME) if claimed else ""
    sure = ", ".join(filter(None, (name, peer_of(request))))
    return f"{said} ({sure})" if said else sure


def _plain(text: str, param: str, longest: int) -> str:
    """What logs, status and terminals may show."""
    if len(text) > longest:
        raise invalid(param, f"at most {longest} characters, found {len(text)}")
    if not text.isprintable():
        raise invalid(param, "printable characters only")
    return text


def _generation(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 12 and int(text)):
        raise ApiError("invalid_request", "?generation= is a number from 1", param="generation")
    return int(text)
