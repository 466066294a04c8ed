"""What one operation of the server is, for the document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Method = Literal["get", "post", "delete"]

OPENAI = "OpenAI"
ANTHROPIC = "Anthropic"
MODELS = "Models and skills"
STATE = "State"
ADMIN = "Administration"

# Codes that any request with a body, and any that a model answers, may get; see appliance/errors.py.
BODY = ("invalid_request", "not_supported", "request_too_large")
MODEL = (
    *BODY,
    "context_length_exceeded",
    "model_not_found",
    "rate_limited",
    "no-model-loaded",
    "oom-unloaded",
    "model_swapping",
    "overloaded",
    "engine_failed",
    "insufficient_memory",
)
CHANGES = ("forbidden",)


@dataclass(frozen=True)
class Parameter:
    """place: query, path or header."""

    name: str
    text: str
    schema: dict[str, Any]
    place: Literal["query", "path", "header"] = "query"


@dataclass(frozen=True)
class Operation:
    """body: the structure that reads it. answer: of status 200; None where it is no JSON (media says which).

    events: one event of the stream that the operation answers with, always or where `stream` is true.
    optional: the body may be left out. codes: errors beside those of every request. also: further statuses
    that have the same answer. upgrade: a WebSocket. done: the last event's data is `[DONE]`.
    """

    method: Method
    path: str
    tag: str
    title: str
    text: str
    body: Any = None
    answer: Any = None
    events: Any = None
    media: str = "application/json"
    optional: bool = False
    parameters: tuple[Parameter, ...] = ()
    codes: tuple[str, ...] = ()
    also: tuple[int, ...] = ()
    upgrade: bool = False
    done: bool = False

    @property
    def id(self) -> str:
        words = [word.strip("{}").replace(".", "_") for word in self.path.split("/") if word] or ["dashboard"]
        return "_".join([self.method, *words])
