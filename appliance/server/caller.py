"""Who asks: what a request says of itself beside its question."""

from __future__ import annotations

from sanic.request import Request

from appliance.server import schema
from appliance.server.replies import request_id
from appliance.supervisor.record import Caller

SESSION = "x-lmx-session"


def caller_of(request: Request, body: schema.Generate | None = None) -> Caller:
    """body: once it has been read. The header names the session, else prompt_cache_key, else user."""
    session = request.headers.getone(SESSION, None)
    if not session and body is not None:
        session = body.prompt_cache_key or body.user
    return Caller(session or None, request_id(request), request.path)
