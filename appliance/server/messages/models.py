"""The models of the spec in Anthropic's shape. Pure.

Source: the type `anthropic.types.ModelInfo` of Anthropic's Python package.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from appliance.errors import ApiError

MOST = 1000


class Arguments(Protocol):
    """Of a query, as Sanic gives them."""

    def get(self, name: str) -> str | None: ...


def entry(model: dict[str, Any], started: int) -> dict[str, Any]:
    """started: when the appliance was, in seconds since the epoch; models have no better date."""
    context = model.get("context") or {}
    return {
        "type": "model",
        "id": model["id"],
        "display_name": model["id"],
        "created_at": datetime.fromtimestamp(started, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": context.get("effective"),
        "max_tokens": context.get("effective"),
    }


def page(query: Arguments, models: Sequence[dict[str, Any]], started: int) -> dict[str, Any]:
    """Raises ApiError."""
    found = [entry(model, started) for model in models]
    names = [model["id"] for model in found]
    limit = _limit(query.get("limit"))
    if (after := query.get("after_id")) is not None:
        found = found[_place(names, after, "after_id") + 1 :]
        more = len(found) > limit
        found = found[:limit]
    elif (before := query.get("before_id")) is not None:
        found = found[: _place(names, before, "before_id")]
        more = len(found) > limit
        found = found[-limit:]
    else:
        more = len(found) > limit
        found = found[:limit]
    return {
        "data": found,
        "has_more": more,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
    }


def _limit(given: str | None) -> int:
    if given is None:
        return MOST
    if not given.isdecimal() or not 1 <= int(given[:5]) <= MOST:
        raise ApiError("invalid_request", f"limit: must be from 1 to {MOST}", param="limit")
    return int(given)


def _place(names: Sequence[str], name: str, param: str) -> int:
    if name not in names:
        raise ApiError("invalid_request", f"{param}: there is no model {name[:100]!r} here", param=param)
    return names.index(name)
