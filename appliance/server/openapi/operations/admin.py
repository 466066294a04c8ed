"""What the operator sees and does."""

from __future__ import annotations

from typing import Any

from appliance.server import schema
from appliance.server.openapi import answers
from appliance.server.openapi.operations.operation import ADMIN, BODY, CHANGES, MODEL, Operation, Parameter

_NAME: dict[str, Any] = {"type": "string", "minLength": 1}
_EVENT: dict[str, Any] = {"type": "string", "pattern": "^[0-9]{1,18}$"}

ADMINISTRATION: tuple[Operation, ...] = (
    Operation(
        "get",
        "/admin/events",
        ADMIN,
        "Events",
        "Server-Sent Events: what happened, and telemetry once a second. `Last-Event-ID` goes on after "
        "that event.",
        events=answers.AdminEvent,
        parameters=(
            Parameter("Last-Event-ID", "The last event seen.", _EVENT, "header"),
            Parameter("after", "The same, for those who cannot send the header.", _EVENT),
            Parameter(
                "view",
                "`page`: what differs in the dashboard, each second, as markup; for that page alone.",
                {"type": "string", "enum": ["page"]},
            ),
        ),
        codes=("invalid_request",),
    ),
    Operation(
        "get",
        "/admin/models",
        ADMIN,
        "Models here",
        "What the spec names and, marked `declared: false`, what else lies in the Hub's cache.",
        answer=answers.AdminModels,
    ),
    Operation(
        "post",
        "/admin/models/load",
        ADMIN,
        "Load a model",
        "An override over the spec. Returns when the model answers. Only what the spec names.",
        body=schema.LoadRequest,
        answer=answers.Loaded,
        codes=(*MODEL, *CHANGES, "managed_by_file", "insufficient_storage"),
    ),
    Operation(
        "post",
        "/admin/models/unload",
        ADMIN,
        "Unload a model",
        "An override over the spec; without a name, the model that answers.",
        body=schema.UnloadRequest,
        optional=True,
        answer=answers.Unloaded,
        codes=(*MODEL, *CHANGES, "managed_by_file"),
    ),
    Operation(
        "post",
        "/admin/models/pull",
        ADMIN,
        "Download a model",
        "Progress as Server-Sent Events. Only what the spec names. Whoever leaves stops a download that "
        "nobody else wants; the next one goes on from there.",
        body=schema.PullRequest,
        events=answers.PullEvent,
        codes=(
            *BODY,
            *CHANGES,
            "model_not_found",
            "not_found",
            "gated",
            "offline",
            "checksum_mismatch",
            "download_failed",
            "overloaded",
            "insufficient_storage",
        ),
    ),
    Operation(
        "delete",
        "/admin/override",
        ADMIN,
        "Clear overrides",
        "One model's, or all.",
        answer=answers.Cleared,
        parameters=(Parameter("model", "Whose.", _NAME),),
        codes=("invalid_request", *CHANGES, "managed_by_file"),
    ),
    Operation(
        "post",
        "/admin/drain",
        ADMIN,
        "Drain",
        "New sessions are turned away, known ones served for a while.",
        body=schema.DrainRequest,
        optional=True,
        answer=answers.Drained,
        codes=(*BODY, *CHANGES, "managed_by_file", "overloaded"),
    ),
    Operation(
        "delete",
        "/admin/drain",
        ADMIN,
        "End the drain",
        "New sessions are taken again.",
        answer=answers.Cleared,
        codes=(*CHANGES, "managed_by_file", "overloaded"),
    ),
    Operation(
        "post",
        "/admin/warmup",
        ADMIN,
        "Warm up",
        "Loads a model, or takes the active one, and runs short requests.",
        body=schema.WarmupRequest,
        optional=True,
        answer={"type": "object"},
        codes=(*MODEL, *CHANGES),
    ),
    Operation(
        "get",
        "/admin/sessions",
        ADMIN,
        "Sessions of the prompt cache",
        "The most recently used first.",
        answer=answers.Sessions,
        codes=("invalid_request", *CHANGES, "engine_failed"),
    ),
    Operation(
        "delete",
        "/admin/sessions",
        ADMIN,
        "Drop sessions",
        "One, or all; of one model, or of all.",
        answer=answers.SessionsDropped,
        parameters=(
            Parameter("name", "Which.", _NAME),
            Parameter("model", "Of which model.", _NAME),
        ),
        codes=("invalid_request", "model_not_found", "not_found", *CHANGES, "engine_failed"),
    ),
    Operation(
        "post",
        "/admin/reconcile",
        ADMIN,
        "Reconcile now",
        "What failed is tried again at once.",
        body=schema.Nothing,
        optional=True,
        answer=answers.Done,
        codes=(*BODY, *CHANGES),
    ),
    Operation(
        "get",
        "/admin/config",
        ADMIN,
        "Effective configuration",
        "",
        answer=answers.Configuration,
        parameters=(
            Parameter(
                "origins",
                "Also where each value comes from, and what bounds it now.",
                {"type": "string", "enum": ["true", "false"]},
            ),
        ),
        codes=("invalid_request",),
    ),
    Operation(
        "get",
        "/admin/plan",
        ADMIN,
        "Plan",
        "What the loop is about to do, and why.",
        answer=answers.PlanLines,
    ),
)
