"""What models answer."""

from __future__ import annotations

from typing import Any

from appliance.server import schema
from appliance.server.embeddings import EmbeddingRequest
from appliance.server.messages import schema as messages
from appliance.server.openapi import answers
from appliance.server.openapi.operations.operation import ANTHROPIC, MODEL, OPENAI, Operation, Parameter
from appliance.server.rerank import RerankRequest
from appliance.server.responses import schema as responses

_NAME: dict[str, Any] = {"type": "string", "minLength": 1}
_ID = Parameter("response_id", "Its id.", _NAME, "path")
_SESSION = Parameter(
    "X-LMX-Session",
    "The conversation that this belongs to, so that its prompt cache is kept.",
    {"type": "string", "maxLength": 256},
    "header",
)

INFERENCE: tuple[Operation, ...] = (
    Operation(
        "post",
        "/v1/chat/completions",
        OPENAI,
        "Chat",
        "Messages in, the assistant's next message out: with tools, structured output, reasoning, "
        "log-probabilities and skills. `stream: true` gives Server-Sent Events.",
        body=schema.ChatRequest,
        answer=answers.ChatAnswer,
        events=answers.ChatChunk,
        done=True,
        parameters=(_SESSION,),
        codes=(*MODEL, "unsupported_grammar"),
    ),
    Operation(
        "post",
        "/v1/completions",
        OPENAI,
        "Text completion",
        "Continues a prompt as it is, without a chat template.",
        body=schema.CompletionRequest,
        answer=answers.TextAnswer,
        events=answers.TextAnswer,
        done=True,
        parameters=(_SESSION,),
        codes=(*MODEL, "unsupported_grammar"),
    ),
    Operation(
        "post",
        "/v1/responses",
        OPENAI,
        "Responses",
        "Items in, items out. Kept for a while, in memory, so that `previous_response_id` can name it, "
        "unless `store` is false.",
        body=responses.ResponseRequest,
        answer=answers.Response,
        events=answers.ResponseEvent,
        parameters=(_SESSION,),
        codes=(*MODEL, "unsupported_grammar", "not_found"),
    ),
    Operation(
        "post",
        "/v1/responses/input_tokens",
        OPENAI,
        "Count a response's input",
        "The tokens that the same body would have as its prompt.",
        body=responses.CountRequest,
        answer=answers.InputTokens,
        codes=(*MODEL, "not_found"),
    ),
    Operation(
        "get",
        "/v1/responses/{response_id}",
        OPENAI,
        "A kept response",
        "As it was sent.",
        answer=answers.Response,
        parameters=(_ID,),
        codes=("invalid_request", "not_supported", "not_found"),
    ),
    Operation(
        "delete",
        "/v1/responses/{response_id}",
        OPENAI,
        "Forget a response",
        "It cannot be named any more.",
        answer=answers.ResponseDeleted,
        parameters=(_ID,),
        codes=("not_found",),
    ),
    Operation(
        "get",
        "/v1/responses/{response_id}/input_items",
        OPENAI,
        "The items that led to a response",
        "Those of its whole conversation, a page at a time.",
        answer=answers.ItemPage,
        parameters=(
            _ID,
            Parameter("order", "Newest first, unless asc.", {"enum": ["asc", "desc"], "default": "desc"}),
            Parameter("limit", "Items on a page.", {"type": "integer", "minimum": 1, "maximum": 100}),
            Parameter("after", "The last item of the page before.", {"type": "string"}),
        ),
        codes=("invalid_request", "not_supported", "not_found"),
    ),
    Operation(
        "post",
        "/v1/embeddings",
        OPENAI,
        "Embeddings",
        "A vector for each text, of unit length. For models with `role: embedding`.",
        body=EmbeddingRequest,
        answer=answers.Embeddings,
        codes=MODEL,
    ),
    Operation(
        "post",
        "/v1/rerank",
        OPENAI,
        "Rerank",
        "Documents by their relevance to a query, in the shape of Cohere and Jina. For models with "
        "`role: rerank`.",
        body=RerankRequest,
        answer=answers.Ranking,
        codes=MODEL,
    ),
    Operation(
        "get",
        "/v1/ws",
        OPENAI,
        "Many chats on one WebSocket",
        "Send a body of /v1/chat/completions with an `id` as a text frame; its chunks come back with that "
        "`id`. "
        '`{"type": "cancel", "id": ...}` ends one, `{"type": "ping"}` is answered.',
        codes=("invalid_request", "forbidden"),
        upgrade=True,
    ),
    Operation(
        "post",
        "/v1/messages",
        ANTHROPIC,
        "Messages",
        "Anthropic's API: blocks in, blocks out, with tools, thinking and `stop_sequences`.",
        body=messages.MessageRequest,
        answer=answers.AnthropicMessage,
        events=answers.AnthropicEvent,
        parameters=(_SESSION,),
        codes=(*MODEL, "unsupported_grammar"),
    ),
    Operation(
        "post",
        "/v1/messages/count_tokens",
        ANTHROPIC,
        "Count a message's input",
        "The tokens that the same body would have as its prompt.",
        body=messages.CountRequest,
        answer=answers.CountedTokens,
        codes=MODEL,
    ),
)
