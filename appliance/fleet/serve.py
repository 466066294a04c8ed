"""`lmx fleet serve`: one page about all machines, asked again and again in the background.

Who looks at the page costs the machines nothing: they are asked at the page's own pace, by nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any

from sanic import Sanic
from sanic.config import Config
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.dashboard import wording
from appliance.dashboard.render import POLICY, asset
from appliance.errors import ApiError
from appliance.fleet.inventory import Machine
from appliance.fleet.poll import poll
from appliance.fleet.verdict import State, Verdict, verdict
from appliance.server.guards import check_host
from appliance.server.listeners import Listeners
from appliance.server.replies import error_reply, reply
from appliance.template_files import environment
from reconciler.spec import Server

log = logging.getLogger("lmx.fleet")

GRACE_S = 1.0  # for pages that are being sent when it stops

SAID: tuple[tuple[State, str], ...] = (
    ("silent", "do not answer"),
    ("down", "answer, but their active model does not"),
    ("lagging", "have not converged"),
    ("degraded", "serve less than they should"),
)


class Fleet:
    """machines: those of the inventory. every: seconds from the end of one look to the next."""

    def __init__(
        self, machines: Sequence[Machine], wanted: str | None, every: float, within: float, at_once: int
    ) -> None:
        self._machines, self._wanted = machines, wanted
        self.every, self._within, self._at_once = every, within, at_once
        self.found: Verdict = verdict([], wanted)
        self.at = 0.0  # wall clock of the newest look

    async def look(self) -> None:
        answers = await poll(self._machines, at_once=self._at_once, within=self._within)
        self.found, self.at = verdict(answers, self._wanted), time.time()

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self.every)
            await self.look()

    def page(self) -> bytes:
        template = environment().get_template("fleet.html.j2")
        values = {"fleet": self.found, "at": self.at, "now": time.time(), "said": SAID, "words": wording}
        return template.render(**values, every=max(2, round(self.every))).encode()


def build(fleet: Fleet, server: Server) -> Sanic[Any, Any]:
    """server: host, port and the names that this page goes by."""
    config = Config(env_prefix=None)
    config.update({"ACCESS_LOG": False, "AUTO_EXTEND": False, "MOTD": False, "REQUEST_MAX_SIZE": 4096})
    app: Sanic[Any, Any] = Sanic(f"lmx-fleet-{id(fleet)}", config=config, configure_logging=False)
    app.ctx.note = lambda request, code: None  # nobody counts refusals here
    listeners = app.ctx.listeners = Listeners(app)

    async def guard(request: Request) -> None:
        listeners.say_close(request)
        check_host(request, server)
        if request.method not in ("GET", "HEAD"):
            raise ApiError("method_not_allowed", "this page only reads")

    async def page(_: Request) -> HTTPResponse:
        headers = {"cache-control": "no-cache", "content-security-policy": POLICY}
        headers |= {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
        return HTTPResponse(fleet.page(), headers=headers, content_type="text/html; charset=utf-8")

    async def style(_: Request) -> HTTPResponse:
        return HTTPResponse(asset("dashboard.css"), content_type="text/css; charset=utf-8")

    async def status(_: Request) -> HTTPResponse:
        rows = [vars(row) for row in fleet.found.rows]
        told = {"wanted": fleet.found.wanted, "at": fleet.at, "counts": fleet.found.counts, "machines": rows}
        return reply(told)

    app.register_middleware(guard, "request")
    app.error_handler.add(Exception, error_reply)
    app.add_route(page, "/", methods=["GET", "HEAD"])
    app.add_route(style, "/dashboard.css", methods=["GET", "HEAD"])
    app.add_route(status, "/status", methods=["GET", "HEAD"])
    return app


async def serve(fleet: Fleet, server: Server, stop: asyncio.Event) -> None:
    """Until `stop`. Raises OSError where it cannot listen."""
    await fleet.look()
    listeners: Listeners = build(fleet, server).ctx.listeners
    await listeners.open(server.host, server.port)
    watch = asyncio.create_task(fleet.watch())
    try:
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({waiting, watch}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if watch.done():
            watch.result()  # it never ends by itself, so this raises what ended it
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
        await listeners.close_all(GRACE_S)
