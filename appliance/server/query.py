"""The parameters of a request's address."""

from __future__ import annotations

from sanic.request import Request

from appliance.errors import ApiError


def only(request: Request, known: tuple[str, ...]) -> list[str | None]:
    """Each of these parameters, given once or not at all. Raises ApiError."""
    unknown = sorted(set(request.args) - set(known))
    if unknown:
        way = f"; known are {' and '.join(known)}" if known else "; none is known here"
        raise ApiError("invalid_request", f"?{unknown[0][:80]}= is not known{way}", param=unknown[0][:80])
    for name in known:
        values = request.args.getlist(name) or []
        if len(values) > 1:
            raise ApiError("invalid_request", f"give ?{name}= once, not {len(values)} times", param=name)
    return [request.args.get(name) or None for name in known]
