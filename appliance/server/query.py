"""The parameters of a request's address."""

from __future__ import annotations

from sanic.request import Request
from sanic.request.parameters import RequestParameters

from appliance.errors import ApiError


def given(request: Request) -> RequestParameters:
    """All of them. Sanic's own `args` leave the empty ones out, and `?name=` would mean everybody."""
    return request.get_args(keep_blank_values=True)


def only(request: Request, known: tuple[str, ...]) -> list[str | None]:
    """Each of these parameters, given once or not at all, and not empty. Raises ApiError."""
    asked = given(request)
    unknown = sorted(set(asked) - set(known))
    if unknown:
        way = f"; known are {' and '.join(known)}" if known else "; none is known here"
        raise ApiError("invalid_request", f"?{unknown[0][:80]}= is not known{way}", param=unknown[0][:80])
    for name in known:
        values = asked.getlist(name) or []
        if len(values) > 1:
            raise ApiError("invalid_request", f"give ?{name}= once, not {len(values)} times", param=name)
        if values == [""]:
            raise ApiError("invalid_request", f"?{name}= is empty: give a value or leave it out", param=name)
    return [asked.get(name) for name in known]
