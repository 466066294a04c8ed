"""Who asks: what a request says of itself beside its question."""

from __future__ import annotations

import base64
import binascii

import msgspec
from sanic.request import Request

from appliance.errors import ApiError
from appliance.server import schema
from appliance.server.control import Control
from appliance.server.replies import request_id
from appliance.supervisor.record import Caller, Charge

SESSION = "x-lmx-session"
LONGEST = 256  # characters of a session's name
WS = "/v1/ws"
PROTOCOL = "lmx"
KEY_PROTOCOL = "lmx-key."


def caller_of(request: Request, body: schema.Generate | None = None) -> Caller:
    """body: once it has been read. The header names the session, else prompt_cache_key, else user."""
    session = request.headers.getone(SESSION, None)
    if not session and body is not None:
        session = body.prompt_cache_key or body.user
    charge: Charge | None = getattr(request.ctx, "charge", None)
    return Caller(session or None, request_id(request), request.path, charge=charge)


def signed(request: Request, body: schema.Generate, control: Control, *, left_out: bool = False) -> Caller:
    """With all that the prompt cache asks for. Raises ApiError for a name that cannot be one."""
    key = control.identity(shown(request))
    return msgspec.structs.replace(
        caller_of(request, body),
        key=key,
        scope=key if control.spec().cache.share == "key" else "",
        conversation=_conversation(request, body),
        left_out=left_out,
    )


def asker(request: Request, control: Control) -> Caller:
    """Of a request that keeps nothing: embeddings and scores."""
    return msgspec.structs.replace(caller_of(request), key=control.identity(shown(request)))


def _conversation(request: Request, body: schema.Generate) -> str | None:
    """`user` names a person, who has more than one conversation."""
    given = request.headers.getall(SESSION, [])
    if len(given) > 1:
        raise ApiError("invalid_request", "give one X-LMX-Session header, not several", param=SESSION)
    name, said = (
        (given[0], "X-LMX-Session") if given and given[0] else (body.prompt_cache_key, "prompt_cache_key")
    )
    if not name:
        return None
    if len(name) > LONGEST:
        text = f"{said}: a session's name has at most {LONGEST} characters, found {len(name)}"
        raise ApiError("invalid_request", text, param=said)
    if not name.isprintable():
        text = f"{said}: a session's name may hold printable characters only"
        raise ApiError("invalid_request", text, param=said)
    return name


def shown(request: Request) -> str | None:
    """The API key, as OpenAI's clients show it, as Anthropic's do, as a browser does that reads, or, with a
    WebSocket, as a page can."""
    scheme, _, token = request.headers.getone("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    if scheme.lower() == "basic" and reads(request):
        return _password(token.strip())
    own: str | None = request.headers.getone("x-api-key", None)
    if own is None and request.path == WS:
        return offered_key(request)
    return own


def reads(request: Request) -> bool:
    """Whether a browser may show a key by itself here: it does so for any page that makes it ask, so what it
    asks for may change nothing and cost nothing."""
    return request.method in ("GET", "HEAD") and request.path != WS


def _password(token: str) -> str | None:
    """Of `user:password` (RFC 7617), whatever the user is called."""
    try:
        return base64.b64decode(token, validate=True).decode().partition(":")[2] or None
    except (binascii.Error, UnicodeDecodeError):
        return None


def offered_key(request: Request) -> str | None:
    """From `new WebSocket(url, ["lmx", "lmx-key.KEY"])`: a page cannot set headers there."""
    for value in request.headers.getall("sec-websocket-protocol", []):
        for protocol in value.split(","):
            if protocol.strip().startswith(KEY_PROTOCOL):
                return str(protocol).strip().removeprefix(KEY_PROTOCOL)
    return None
