"""GET /docs: the document as one page. No script, and nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from appliance.server.openapi.document import document
from appliance.server.openapi.schemas import REF, Schema
from appliance.template_files import environment, folder

POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@dataclass(frozen=True)
class Row:
    """One field of a structure. link: the structure it holds, if it is one."""

    name: str
    kind: str
    link: str | None
    required: bool
    text: str


@dataclass(frozen=True)
class Shown:
    """One operation."""

    id: str
    method: str
    path: str
    tag: str
    title: str
    text: str
    parameters: list[dict[str, Any]]
    body: str | None
    answers: list[tuple[str, str, str | None]]


@lru_cache(maxsize=1)
def page() -> bytes:
    made = document()
    schemas: dict[str, Schema] = made["components"]["schemas"]
    shown = list(_operations(made))
    return (
        environment()
        .get_template("docs.html.j2")
        .render(
            info=made["info"],
            tags=[(tag["name"], [one for one in shown if one.tag == tag["name"]]) for tag in made["tags"]],
            schemas={name: (one.get("description", ""), list(_rows(one))) for name, one in schemas.items()},
            words=kind_of,
        )
        .encode()
    )


@lru_cache(maxsize=1)
def style() -> bytes:
    return (folder() / "docs.css").read_bytes()


def kind_of(schema: Schema) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(REF)
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(kind_of(one) for one in schema["anyOf"])
    kind = schema.get("type", "anything")
    words = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if kind == "array":
        words = f"list of {kind_of(schema.get('items', {}))}"
    limits = [f"{name} {schema[name]}" for name in _LIMITS if name in schema]
    return f"{words} ({', '.join(limits)})" if limits else words


_LIMITS = (
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "default",
)


def _link(schema: Schema) -> str | None:
    """The first structure in it."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(REF)
    inner = [
        *schema.get("anyOf", ()),
        *(schema[name] for name in ("items", "contentSchema") if name in schema),
    ]
    inner += [one for name, one in schema.get("properties", {}).items() if name == "data"]  # of an event
    return next((name for one in inner if (name := _link(one)) is not None), None)


def _rows(schema: Schema) -> Iterator[Row]:
    needed = schema.get("required", ())
    for name, one in schema.get("properties", {}).items():
        yield Row(name, kind_of(one), _link(one), name in needed, one.get("description", ""))


def _operations(made: dict[str, Any]) -> Iterator[Shown]:
    for path, methods in made["paths"].items():
        for method, one in methods.items():
            content = one.get("requestBody", {}).get("content", {})
            body = next((_link(media["schema"]) for media in content.values()), None)
            yield Shown(
                one["operationId"],
                method.upper(),
                path,
                one["tags"][0],
                one["summary"],
                one.get("description", ""),
                one.get("parameters", []),
                body,
                [_answer(status, said) for status, said in one["responses"].items()],
            )


def _answer(status: str, said: dict[str, Any]) -> tuple[str, str, str | None]:
    content = said.get("content", {})
    link = next((name for media in content.values() if (name := _link(media["schema"]))), None)
    words = " or ".join(content)
    return status, said["description"] if link and not status.startswith("2") else words, link
