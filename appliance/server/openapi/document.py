"""The OpenAPI 3.1 document. Source: https://spec.openapis.org/oas/v3.1.1"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import appliance
from appliance.errors import CODES
from appliance.server.openapi.answers import AnthropicError, Error
from appliance.server.openapi.notes import NAMES, NOTES
from appliance.server.openapi.operations import ANTHROPIC, OPERATIONS, Operation, Parameter
from appliance.server.openapi.schemas import Components, Schema
from appliance.server.replies import encode

JSON = "application/json"
STREAM = "text/event-stream"
# Codes that any request may get, whatever it asks.
EVERYWHERE = ("invalid_request", "unauthorized", "forbidden", "internal_error")
OPEN = ("/healthz", "/readyz")
INTRODUCTION = (
    "LMX serves the models that its lmx.yaml names, to clients of OpenAI's and of Anthropic's APIs. "
    "What cannot be honoured is refused by name, never ignored. Errors have one shape, with a stable "
    "`code`, and `Retry-After` wherever a retry helps. Keys are needed where `server.api_keys` is set; what "
    "changes the machine is for callers on it, or for some keys (`server.admin`)."
)


@lru_cache(maxsize=1)
def encoded() -> bytes:
    """As JSON. Made at the first request: most servers never get one."""
    return encode(document())


def document() -> dict[str, Any]:
    components = Components(NOTES, NAMES)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, components)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "LMX",
            "version": appliance.__version__,
            "description": INTRODUCTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in OPERATIONS)],
        "security": [{}, {"bearer": []}, {"x_api_key": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.schemas.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x_api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(it: Operation, components: Components) -> Schema:
    made: Schema = {"tags": [it.tag], "operationId": it.id, "summary": it.title}
    if it.text:
        made["description"] = it.text
    if it.path in OPEN:
        made["security"] = [{}]
    if it.parameters:
        made["parameters"] = [_parameter(one) for one in it.parameters]
    if it.body is not None:
        content = {JSON: {"schema": components.of(it.body)}}
        made["requestBody"] = {"required": not it.optional, "content": content}
    made["responses"] = {**_answers(it, components), **_errors(it, components)}
    return made


def _parameter(one: Parameter) -> Schema:
    required = {"required": True} if one.place == "path" else {}
    return {"name": one.name, "in": one.place, "description": one.text, **required, "schema": one.schema}


def _answers(it: Operation, components: Components) -> Schema:
    if it.upgrade:
        return {"101": {"description": "The WebSocket is open."}}
    content: Schema = {}
    if it.answer is not None:
        content[JSON] = {"schema": components.of(it.answer)}
    if it.events is not None:
        content[STREAM] = {"schema": _event(it, components)}
    if not content:
        content[it.media] = {"schema": {"type": "string"}}
    answers = {"200": {"description": it.title, "content": content}}
    # Statuses such as 503 have this shape as well; an error's shape may be another one's too.
    return answers | {str(status): answers["200"] for status in it.also}


def _event(it: Operation, components: Components) -> Schema:
    """One event, as its fields are read: OpenAPI 3.1 has no word of its own for the items of a stream."""
    kinds = [components.of(it.events), components.of(_error_of(it))]
    told: Schema = {"type": "string", "contentMediaType": JSON, "contentSchema": {"anyOf": kinds}}
    data = {"anyOf": [{"const": "[DONE]"}, told]} if it.done else told
    return {
        "type": "object",
        "description": "Server-Sent Events; this is one of them.",
        "properties": {"data": data, "event": {"type": "string"}, "id": {"type": "string"}},
    }


def _error_of(it: Operation) -> type:
    return AnthropicError if it.tag == ANTHROPIC else Error


def _errors(it: Operation, components: Components) -> Schema:
    shape = _error_of(it)
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*EVERYWHERE, *it.codes)):
        by_status.setdefault(CODES[code][0], []).append(code)
    found: Schema = {}
    for status, codes in sorted(by_status.items()):
        if status in it.also:
            continue
        said: Schema = {"description": ", ".join(codes), "content": {JSON: {"schema": components.of(shape)}}}
        if status in (429, 503):
            said["headers"] = {
                "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
            }
        found[str(status)] = said
    return found
