"""The paths that logs and metrics know by name; a client can make up any number of others."""

from __future__ import annotations

ROUTES = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/responses/input_tokens",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/rerank",
        "/v1/models",
        "/v1/skills",
        "/v1/ws",
        "/",
        "/dashboard.css",
        "/dashboard.js",
        "/docs",
        "/docs.css",
        "/openapi.json",
        "/healthz",
        "/readyz",
        "/status",
        "/metrics",
        "/admin/events",
        "/admin/models",
        "/admin/models/load",
        "/admin/models/unload",
        "/admin/models/pull",
        "/admin/config",
        "/admin/plan",
        "/admin/reconcile",
        "/admin/drain",
        "/admin/warmup",
        "/admin/override",
        "/admin/try",
        "/admin/confirm",
        "/admin/rollback",
        "/admin/suspend",
        "/admin/sessions",
    }
)
NAMED = ("/v1/models", "/v1/responses")  # a name follows
OTHER = "other"


def route_of(path: str) -> str:
    """ "/v1/models/NAME" counts as "/v1/models"; what is none of ours as "other"."""
    if path in ROUTES:
        return path
    return next((route for route in NAMED if path.startswith(f"{route}/")), OTHER)
