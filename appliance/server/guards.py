"""Who may call: the checks that run before a body is read.

The appliance listens on all interfaces, without keys by default. Two things keep web pages out: a
Host header must be a name or address of this machine, so a page cannot rebind its own name to it, and
a browser's Origin must be the same host or listed in `server.cors`; WebSockets too, which browsers open to
anywhere. Where `server.api_keys` is set, nothing but the two probes is answered without a key. What changes
things is for callers on this machine only, or for some keys (`server.admin`).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import MutableMapping
from functools import lru_cache
from typing import TYPE_CHECKING

from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.errors import ApiError
from appliance.server.body import DISCARD
from appliance.server.caller import WS, shown
from appliance.server.connection import http_of, protocol_of, transport_of
from appliance.server.control import Control
from appliance.server.replies import headers_too_large

if TYPE_CHECKING:
    from appliance.access.keyring import Key
    from reconciler.spec import ApiKeys, Server

_HOST = re.compile(r"^(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?$")
MOST_HEADERS = 100
# Behind the first line: `Content-Length : 5` is another header to one reader and a body's length to the next.
_HEADERS = re.compile(rb"[^\r\n]*(?:\r\n[A-Za-z0-9!#$%&'*+.^_`|~-]+:[^\x00-\x08\x0a-\x1f\x7f]*)*")
_SAFE = ("GET", "HEAD", "OPTIONS")
# A proxy on this machine speaks for someone else: its loopback address proves nothing.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
# Without a key: a load balancer has none, and they tell nothing but yes or no.
_OPEN = ("/healthz", "/readyz")
# Where an API key's limits count, as the router names them.
_LIMITED = frozenset(
    {
        "v1/chat/completions",
        "v1/completions",
        "v1/responses",
        "v1/responses/input_tokens",
        "v1/messages",
        "v1/messages/count_tokens",
        "v1/embeddings",
        "v1/rerank",
    }
)
_HEADER_NAMES = re.compile(r"^[A-Za-z0-9, _-]{1,2048}$")
_EXPOSED = (
    "x-request-id, retry-after, x-ratelimit-limit-requests, x-ratelimit-limit-tokens, "
    "x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, "
    "x-ratelimit-reset-tokens"
)
_ALLOWED = (
    "authorization, x-api-key, content-type, accept, x-request-id, last-event-id, x-lmx-session, "
    "anthropic-version, anthropic-beta, anthropic-dangerous-direct-browser-access"
)


class Guards:
    def __init__(self, control: Control) -> None:
        self._control = control

    async def on_request(self, request: Request) -> HTTPResponse | None:
        """Sanic's request middleware: runs for every request, before the body is read."""
        if request.method == "NONE":  # Sanic's stand-in for a request it could not parse
            return None
        server = self._control.spec().server
        http = http_of(request)
        if http.upgrade_websocket and request.path != WS:
            http.upgrade_websocket = False  # to Sanic: this connection keeps its timeouts
        if len(request.headers) > MOST_HEADERS:
            http.keep_alive = False
            raise headers_too_large(f"{len(request.headers)} headers are more than {MOST_HEADERS}")
        if _HEADERS.fullmatch(request.head) is None:
            http.keep_alive = False
            raise ApiError(
                "invalid_request", "a header's name or value holds characters that it may not hold"
            )
        if request.version == "1.0" and "transfer-encoding" in request.headers:
            http.keep_alive = False
            raise ApiError("invalid_request", "HTTP/1.0 knows no Transfer-Encoding; send a Content-Length")
        # A body that no handler reads is thrown away up to here, then the connection is closed.
        protocol_of(request).request_max_size = server.max_body + DISCARD
        host = check_host(request, server)
        origin = check_origin(request, server, host)
        if origin and request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return HTTPResponse(status=204, headers=_preflight(request))
        if server.api_keys is not None and request.path not in _OPEN:
            self._check_key(request, server.api_keys)
        return None

    def _check_key(self, request: Request, declared: ApiKeys) -> None:
        """Leaves the key in `request.ctx.key`, and where it has limits to keep, what the request costs."""
        access = self._control.access
        if len(request.headers.getall("authorization", [])) > 1:
            raise ApiError("invalid_request", "give one Authorization header, not several")
        key = request.ctx.key = access.enter(declared, shown(request), peer_of(request))
        if request.method == "POST" and request.route is not None and request.route.path in _LIMITED:
            length = request.headers.getone("content-length", "0")
            request.ctx.charge = access.charge(key, int(length) if length.isdecimal() else 0)

    def check_admin(self, request: Request) -> None:
        """For handlers that change things."""
        mode = self._control.spec().server.admin
        if mode == "off":
            raise ApiError("forbidden", "calls that change things are off here (server.admin: off)")
        if mode == "key":
            key: Key | None = getattr(request.ctx, "key", None)
            if key is None or not key.admin:
                raise ApiError(
                    "forbidden",
                    "calls that change things need an API key with `admin: true` (server.admin: key)",
                )
            return
        if not is_loopback(peer_of(request)):
            raise ApiError(
                "forbidden",
                "calls that change things are allowed from this machine only (server.admin: loopback)",
            )
        if any(name in request.headers for name in _FORWARDED):
            raise ApiError(
                "forbidden",
                "calls that change things must come from this machine itself, not through a proxy",
            )


def check_host(request: Request, server: Server) -> str:
    """The Host header's name, without its port. Raises ApiError where it is not this machine's."""
    given = request.headers.getall("host", [])
    if not given and request.version == "1.0":
        return ""
    match = _HOST.match(given[0]) if len(given) == 1 else None
    if match is None:
        raise ApiError("invalid_request", "exactly one valid Host header is needed")
    target = request.raw_url
    if not target.startswith(b"/"):
        # `GET http://name/path`, as to a proxy: the name that counts there is the one in the target.
        authority = target.partition(b"://")[2].partition(b"/")[0].decode("ascii", "replace")
        if target != b"*" and authority.lower() != given[0].lower():
            raise ApiError("invalid_request", "the request's target and its Host header name different hosts")
    name = (match["six"] or match["name"]).lower().removesuffix(".")
    allowed = own_names(socket.gethostname()) if server.allowed_hosts == "auto" else server.allowed_hosts
    if name == "localhost" or name in allowed or _is_own_address(request, name):
        return name
    if any(name == one.lower().removesuffix(".") for one in allowed):
        return name
    raise ApiError(
        "forbidden", f"{name} is not a name of this machine; if it is, add it to server.allowed_hosts"
    )


def check_origin(request: Request, server: Server, host: str) -> str | None:
    """The origin of a page that `server.cors` lets in; None for same-host pages and for programs."""
    given = request.headers.getall("origin", [])
    if len(given) > 1:
        raise ApiError("forbidden", "a request has one Origin header, not several")
    origin: str | None = given[0] if given else None
    if origin is None:
        site = request.headers.getone("sec-fetch-site", "none")
        if request.method not in _SAFE and site not in ("same-origin", "none"):
            raise ApiError("forbidden", "a web page on another site may not call this machine")
        return None
    if origin in server.cors:
        request.ctx.origin = origin
        return origin
    scheme, _, rest = origin.partition("://")
    if scheme in ("http", "https") and rest and rest.lower() == request.headers.getone("host", "").lower():
        return None
    raise ApiError(
        "forbidden",
        f"pages from {origin[:100]!a} may not call this machine; to let them, add it to server.cors",
    )


def _preflight(request: Request) -> dict[str, str]:
    """What a listed page may send: whatever headers it asks for, since SDKs have dozens of their own."""
    asked = request.headers.getone("access-control-request-headers", "")
    headers = {
        "access-control-allow-methods": "GET, POST, DELETE, OPTIONS",
        "access-control-allow-headers": asked if _HEADER_NAMES.match(asked) else _ALLOWED,
        "access-control-max-age": "600",
    }
    if request.headers.getone("access-control-request-private-network", "") == "true":
        headers["access-control-allow-private-network"] = "true"
    return headers


def mark(request: Request, server: Server, headers: MutableMapping[str, str]) -> None:
    """The headers of an answer that tell a browser who may read it."""
    headers["x-content-type-options"] = "nosniff"
    headers["cross-origin-resource-policy"] = "same-origin"
    if server.cors:
        headers["vary"] = "origin"
    origin = getattr(request.ctx, "origin", None)
    if origin is not None:
        headers["access-control-allow-origin"] = origin
        headers["access-control-expose-headers"] = _EXPOSED


def peer_of(request: Request) -> str:
    """The address at the other end of the connection. Headers are not looked at."""
    peer = transport_of(request).get_extra_info("peername")
    return str(peer[0]) if peer else ""


def is_loopback(address: str) -> bool:
    parsed = _address(address)
    return parsed is not None and parsed.is_loopback


@lru_cache(maxsize=8)
def own_names(hostname: str) -> frozenset[str]:
    """Names that clients on the same network know this machine by."""
    name = hostname.lower()
    short = name.split(".", 1)[0]
    return frozenset(filter(None, {name, short, f"{short}.local"}))


def _is_own_address(request: Request, name: str) -> bool:
    """Whether `name` is loopback, or the very address of ours that this connection came in on."""
    parsed = _address(name)
    if parsed is None:
        return False
    local = transport_of(request).get_extra_info("sockname")
    return parsed.is_loopback or (local is not None and parsed == _address(str(local[0])))


@lru_cache(maxsize=256)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed
