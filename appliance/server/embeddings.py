"""POST /v1/embeddings

The answer may hold millions of numbers. They are written a few thousand at a time, so that whoever streams a
chat meanwhile does not wait for them.
"""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Literal

import msgspec
from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance import wire
from appliance.errors import ApiError
from appliance.server import body
from appliance.server.caller import asker
from appliance.server.control import Control
from appliance.server.fields import invalid
from appliance.server.replies import encode

MOST = 2048  # inputs of one request, as OpenAI's own endpoint has it
AT_ONCE = 16_384  # numbers written before others have their turn: about a millisecond


class EmbeddingRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """truncate: cut what is too long at its end, instead of refusing the request."""

    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    truncate: bool | None = None
    user: str | None = None


def blueprint(control: Control) -> Blueprint:
    family = Blueprint("embeddings")

    async def embeddings(request: Request) -> HTTPResponse:
        caller = asker(request, control)
        control.router.check(caller)
        asked = await body.read(request, EmbeddingRequest, control.spec().server.max_body)
        question = question_of(asked)
        model, found = await control.router.ask(asked.model, question, caller=caller)
        assert isinstance(found, wire.Embedded)
        text = asked.encoding_format == "base64"
        return HTTPResponse(await written(model, found, text=text), content_type="application/json")

    family.add_route(embeddings, "/v1/embeddings", methods=["POST"], stream=True)
    return family


def question_of(asked: EmbeddingRequest) -> wire.Embed:
    """Raises ApiError."""
    if asked.dimensions is not None and asked.dimensions < 1:
        raise invalid("dimensions", f"must be at least 1, found {asked.dimensions}")
    return wire.Embed(0, inputs_of(asked.input), asked.dimensions, bool(asked.truncate))


def inputs_of(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """One text, one list of tokens, or a list of those. Raises ApiError."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise invalid("input", "at least one text is needed, found an empty list")
    tokens = [one for one in given if isinstance(one, int)]
    if tokens:
        if len(tokens) != len(given):
            raise invalid("input", "give token ids of one text, or a list of texts, not both in one list")
        return [tokens]
    if len(given) > MOST:
        raise invalid("input", f"at most {MOST} texts in one request, found {len(given)}; send several")
    found = [one for one in given if not isinstance(one, int)]
    empty = next((index for index, one in enumerate(found) if one == []), None)
    if empty is not None:
        raise ApiError("invalid_request", f"input[{empty}] is empty", param=f"input[{empty}]")
    return found


async def written(model: str, found: wire.Embedded, *, text: bool) -> bytes:
    """The whole body. text: vectors as base64 of their little-endian float32."""
    row = struct.Struct(f"<{found.dimensions}f")
    parts = [b'{"object":"list","data":[']
    since = 0
    for index, at in enumerate(range(0, len(found.vectors), row.size)):
        data = found.vectors[at : at + row.size]
        vector = encode(base64.b64encode(data).decode() if text else row.unpack(data))
        parts.append(
            b'%b{"object":"embedding","index":%d,"embedding":%b}' % (b"," * (index > 0), index, vector)
        )
        since += found.dimensions
        if since >= AT_ONCE:
            since = 0
            await asyncio.sleep(0)
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    parts.append(b'],"model":%b,"usage":%b}' % (encode(model), encode(usage)))
    return b"".join(parts)
