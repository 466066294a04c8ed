"""/admin: what the operator sees and does. Everything that changes something is guarded here."""

from __future__ import annotations

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.errors import ApiError
from appliance.server import body, layers, schema
from appliance.server.control import Control
from appliance.server.events import follow
from appliance.server.fields import seconds
from appliance.server.guards import Guards
from appliance.server.health import GET
from appliance.server.listeners import Listeners
from appliance.server.pull import follow as follow_pull
from appliance.server.query import only
from appliance.server.replies import reply


def blueprint(control: Control, guards: Guards, listeners: Listeners) -> Blueprint:
    family = Blueprint("admin", url_prefix="/admin")

    async def models(_: Request) -> HTTPResponse:
        return reply({"models": await control.admin_models()})

    async def load(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        asked = await body.read(request, schema.LoadRequest, control.spec().server.max_body)
        return reply(await control.load(asked.model))

    async def unload(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        limit = control.spec().server.max_body
        asked = await body.read(request, schema.UnloadRequest, limit, empty=schema.UnloadRequest())
        return reply(await control.unload(asked.model))

    async def clear_override(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        (model,) = only(request, ("model",))
        return reply(await control.clear_override(model))

    async def drain(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        limit = control.spec().server.max_body
        asked = await body.read(request, schema.DrainRequest, limit, empty=schema.DrainRequest())
        return reply(await control.drain(seconds(asked.session_timeout, "session_timeout"), wait=asked.wait))

    async def end_drain(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        return reply(await control.undrain())

    async def warmup(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        limit = control.spec().server.max_body
        asked = await body.read(request, schema.WarmupRequest, limit, empty=schema.WarmupRequest())
        return reply(await control.warmup(asked.model))

    async def sessions(request: Request) -> HTTPResponse:
        guards.check_admin(request)  # names of conversations are not everybody's business
        only(request, ())
        return reply({"sessions": await control.sessions()})

    async def drop_sessions(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        name, model = only(request, ("name", "model"))
        return reply({"success": True, "dropped": await control.drop_sessions(name, model)})

    async def pull(request: Request) -> None:
        guards.check_admin(request)
        asked = await body.read(request, schema.PullRequest, control.spec().server.max_body)
        await follow_pull(request, control.pull(asked.model), listeners)

    async def reconcile(request: Request) -> HTTPResponse:
        guards.check_admin(request)
        await body.read(request, schema.Nothing, control.spec().server.max_body, empty=schema.Nothing())
        return reply(await control.reconcile())

    async def config(request: Request) -> HTTPResponse:
        (asked,) = only(request, ("origins",))
        if asked not in (None, "true", "false"):
            raise ApiError("invalid_request", "?origins= is true or false", param="origins")
        return reply(await control.config(origins=asked == "true"))

    async def plan(_: Request) -> HTTPResponse:
        return reply({"plan": control.plan()})

    async def events(request: Request) -> None:
        await follow(request, control, listeners)

    family.add_route(models, "/models", methods=GET)
    family.add_route(load, "/models/load", methods=["POST"], stream=True)
    family.add_route(pull, "/models/pull", methods=["POST"], stream=True)
    family.add_route(unload, "/models/unload", methods=["POST"], stream=True)
    family.add_route(clear_override, "/override", methods=["DELETE"])
    family.add_route(drain, "/drain", methods=["POST"], stream=True)
    family.add_route(end_drain, "/drain", methods=["DELETE"])
    family.add_route(warmup, "/warmup", methods=["POST"], stream=True)
    family.add_route(sessions, "/sessions", methods=GET)
    family.add_route(drop_sessions, "/sessions", methods=["DELETE"])
    family.add_route(reconcile, "/reconcile", methods=["POST"], stream=True)
    family.add_route(config, "/config", methods=GET)
    family.add_route(plan, "/plan", methods=GET)
    family.add_route(events, "/events", methods=["GET"])
    layers.add(family, control, guards)
    return family
