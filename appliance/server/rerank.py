"""POST /v1/rerank, in the shape that Cohere and Jina share."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance import wire
from appliance.server import body
from appliance.server.caller import asker
from appliance.server.control import Control
from appliance.server.fields import invalid
from appliance.server.replies import reply

MOST = 2048  # documents of one request


class Document(msgspec.Struct, forbid_unknown_fields=True):
    text: str


class RerankRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """instruction: what relevance means, for models that take one (Qwen3-Reranker). truncate: cut documents
    that are too long at their end, instead of refusing the request."""

    query: str
    documents: list[str | Document]
    model: str | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    instruction: str | None = None
    truncate: bool | None = None
    user: str | None = None


def blueprint(control: Control) -> Blueprint:
    family = Blueprint("rerank")

    async def rerank(request: Request) -> HTTPResponse:
        caller = asker(request, control)
        control.router.check(caller)
        asked = await body.read(request, RerankRequest, control.spec().server.max_body)
        documents = documents_of(asked)
        question = wire.Rank(0, asked.query, documents, asked.instruction, bool(asked.truncate))
        model, found = await control.router.ask(asked.model, question, caller=caller)
        assert isinstance(found, wire.Ranked)
        return reply(
            {
                "id": f"rerank-{secrets.token_hex(12)}",
                "model": model,
                "results": results(asked, documents, found.scores),
                "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
            }
        )

    family.add_route(rerank, "/v1/rerank", methods=["POST"], stream=True)
    return family


def documents_of(asked: RerankRequest) -> list[str]:
    """Raises ApiError."""
    if not asked.query:
        raise invalid("query", "a query is needed, found an empty text")
    if not asked.documents:
        raise invalid("documents", "at least one document is needed, found an empty list")
    if len(asked.documents) > MOST:
        raise invalid(
            "documents", f"at most {MOST} in one request, found {len(asked.documents)}; send several"
        )
    if asked.top_n is not None and asked.top_n < 1:
        raise invalid("top_n", f"must be at least 1, found {asked.top_n}")
    return [one if isinstance(one, str) else one.text for one in asked.documents]


def results(asked: RerankRequest, documents: list[str], scores: list[float]) -> list[dict[str, Any]]:
    """The best first; of equal ones the earlier."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: asked.top_n]
    found: list[dict[str, Any]] = []
    for index in order:
        one: dict[str, Any] = {"index": index, "relevance_score": scores[index]}
        if asked.return_documents:
            one["document"] = {"text": documents[index]}
        found.append(one)
    return found
