"""What the machine tells of itself."""

from __future__ import annotations

from appliance.server.openapi import answers
from appliance.server.openapi.operations.operation import MODELS, STATE, Operation, Parameter

MACHINE: tuple[Operation, ...] = (
    Operation(
        "get",
        "/v1/models",
        MODELS,
        "Models",
        "What lmx.yaml names, with state and effective ceiling.",
        answer=answers.ModelList,
        codes=("invalid_request",),
    ),
    Operation(
        "get",
        "/v1/models/{model}",
        MODELS,
        "One model",
        "By its name or an alias.",
        answer=answers.ModelEntry,
        parameters=(Parameter("model", "Its name.", {"type": "string", "minLength": 1}, "path"),),
        codes=("model_not_found",),
    ),
    Operation(
        "get",
        "/v1/skills",
        MODELS,
        "Skills",
        "What requests may name under `skills`.",
        answer=answers.SkillList,
    ),
    Operation(
        "get",
        "/healthz",
        STATE,
        "Liveness",
        "200 while the process lives and its loop beats. Needs no key.",
        answer=answers.Alive,
        also=(503,),
    ),
    Operation(
        "get",
        "/readyz",
        STATE,
        "Readiness",
        "200 while the active model answers. Needs no key.",
        answer=answers.ReadyAnswer,
        also=(503,),
    ),
    Operation("get", "/status", STATE, "Status", "What this machine serves, and why.", answer=answers.Status),
    Operation(
        "get",
        "/metrics",
        STATE,
        "Metrics",
        "For Prometheus: its text format, or OpenMetrics where the Accept header asks for it.",
        media="text/plain",
    ),
    Operation("get", "/", STATE, "Dashboard", "Read-only.", media="text/html"),
    Operation("get", "/dashboard.css", STATE, "Style of the dashboard", "", media="text/css"),
    Operation("get", "/dashboard.js", STATE, "Script of the dashboard", "", media="text/javascript"),
    Operation(
        "get",
        "/openapi.json",
        STATE,
        "This document",
        "OpenAPI 3.1, made from the structures that check requests.",
        answer={"type": "object"},
    ),
    Operation("get", "/docs", STATE, "This document, for people", "", media="text/html"),
    Operation("get", "/docs.css", STATE, "Style of the document", "", media="text/css"),
)
