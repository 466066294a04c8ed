"""The document of the API: whole, valid, and of the structures that check requests."""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec
import pytest
from anthropic.types import StopReason
from jsonschema.validators import Draft202012Validator
from sanic import Sanic
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from appliance.errors import CODES
from appliance.server.app import build
from appliance.server.openapi import notes
from appliance.server.openapi.document import document
from appliance.server.openapi.operations import OPERATIONS
from appliance.server.openapi.schemas import Components, raw_fields
from tests.server.conftest import Site
from tests.server.stand import Board, Desk


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return msgspec.json.decode(msgspec.json.encode(document()), type=dict[str, Any])


def served(app: Sanic[Any, Any]) -> set[tuple[str, str]]:
    """(method, path) of every route, as the document writes them: parameters have its names."""
    names = {
        "/v1/models/{}": "/v1/models/{model}",
        "/v1/responses/{}": "/v1/responses/{response_id}",
        "/v1/responses/{}/input_items": "/v1/responses/{response_id}/input_items",
    }
    found = set()
    for route in app.router.routes:
        path = "/" + re.sub(r"<[^>]+>", "{}", route.path).strip("/")
        found |= {(method.lower(), names.get(path, path)) for method in route.methods if method != "HEAD"}
    return found


@pytest.fixture(scope="module")
def routes() -> set[tuple[str, str]]:
    return served(build(Board(Desk())))


def test_every_route_is_in_the_document(routes: set[tuple[str, str]], made: dict[str, Any]) -> None:
    missing = routes - {(operation.method, operation.path) for operation in OPERATIONS}
    assert not missing, f"describe them in appliance/server/openapi/operations: {sorted(missing)}"


def test_every_operation_is_a_route(routes: set[tuple[str, str]]) -> None:
    gone = {(operation.method, operation.path) for operation in OPERATIONS} - routes
    assert not gone, f"no route serves them: {sorted(gone)}"


def test_an_operation_is_told_once(made: dict[str, Any]) -> None:
    ids = [operation.id for operation in OPERATIONS]
    assert len(ids) == len(set(ids)) == sum(map(len, made["paths"].values()))


def test_the_document_is_valid(made: dict[str, Any]) -> None:
    OPENAPI_31_VALIDATOR.validate(made)
    for schema in made["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere(made: dict[str, Any]) -> None:
    text = msgspec.json.encode(made).decode()
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert named == set(made["components"]["schemas"])


def test_every_code_is_one_of_ours() -> None:
    for operation in OPERATIONS:
        assert set(operation.codes) <= set(CODES)


def structures() -> list[type]:
    """All that read requests, those inside others too."""
    components = Components(notes.NOTES, notes.NAMES)
    for operation in OPERATIONS:
        if operation.body is not None:
            components.of(operation.body)
    return list(components.owners.values())


@pytest.mark.parametrize("kind", structures(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_raw_field_of_a_request_has_a_note(kind: type) -> None:
    note = notes.NOTES.get(kind, notes.Notes())
    untold = raw_fields(kind) - note.raw.keys() - note.nothing.keys()
    assert not untold, f"say in appliance/server/openapi/notes.py what they are: {sorted(untold)}"


@pytest.mark.parametrize("kind", notes.NOTES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_note_is_of_a_field(kind: type) -> None:
    fields = set(kind.__struct_fields__)  # type: ignore[attr-defined]
    note = notes.NOTES[kind]
    assert set(note.raw) | set(note.ranges) | set(note.bounds) <= fields


def test_ranges_and_refusals_are_those_that_requests_are_held_against(made: dict[str, Any]) -> None:
    chat = made["components"]["schemas"]["ChatRequest"]["properties"]
    assert (chat["temperature"]["minimum"], chat["temperature"]["maximum"]) == (0, 2)
    assert chat["top_p"]["exclusiveMinimum"] == 0
    assert chat["verbosity"]["enum"] == [None, [], "medium"]
    assert chat["tools"]["anyOf"][0]["items"] == {"$ref": "#/components/schemas/Tool"}
    assert made["components"]["schemas"]["ChatRequest"]["additionalProperties"] is False
    assert made["components"]["schemas"]["ChatRequest"]["required"] == ["messages"]


def test_a_message_ends_as_anthropics_do_but_for_what_is_not_served(made: dict[str, Any]) -> None:
    told = made["components"]["schemas"]["AnthropicMessage"]["properties"]["stop_reason"]["anyOf"]
    given = {reason for option in told for reason in option.get("enum", ())}
    assert given == set(get_args(StopReason)) - {"pause_turn", "refusal"}


@pytest.mark.anyio
async def test_the_document_and_its_page_are_served(site: Site, made: dict[str, Any]) -> None:
    reply = await site.http.get("/openapi.json")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json() == made
    page = await site.http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "script" not in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in page.text
    for operation in OPERATIONS:
        assert f'id="{operation.id}"' in page.text
    assert set(re.findall(r'href="(/[^"]*)"', page.text)) == {"/docs.css", "/openapi.json", "/"}
    linked = set(re.findall(r'href="#([^"]+)"', page.text))
    assert linked <= set(re.findall(r' id="([^"]+)"', page.text))
    assert (await site.http.get("/docs.css")).headers["content-type"] == "text/css; charset=utf-8"
