"""What lies over the file: tried, rolled back, suspended."""

from __future__ import annotations

from appliance.server import schema
from appliance.server.openapi import answers
from appliance.server.openapi.operations.operation import ADMIN, BODY, CHANGES, Operation, Parameter

_DENIED = (*CHANGES, "managed_by_file")
# What the first plan for a spec may find against it.
_PLAN = ("insufficient_memory", "insufficient_storage", "engine_failed", "model_swapping", "oom-unloaded")
_FETCH = ("gated", "offline", "not_found", "checksum_mismatch", "download_failed")

LAYERS: tuple[Operation, ...] = (
    Operation(
        "get", "/admin/try", ADMIN, "What is tried", "And how the last try ended.", answer=answers.Tried
    ),
    Operation(
        "post",
        "/admin/try",
        ADMIN,
        "Try a spec",
        "Held in memory instead of the file's, until its time is over, the file changes, or it is ended. "
        "It may arrange what the file names, and opens nothing new: docs/trying.md.",
        body=schema.TryRequest,
        answer=answers.TryBegun,
        codes=(*BODY, *_DENIED, *_PLAN, *_FETCH),
    ),
    Operation(
        "delete",
        "/admin/try",
        ADMIN,
        "End the try",
        "The file is what is asked for again.",
        answer=answers.Cleared,
        codes=_DENIED,
    ),
    Operation(
        "post",
        "/admin/confirm",
        ADMIN,
        "Confirm the try",
        "It has no deadline any more. The answer carries the edit that keeps it for good.",
        body=schema.ByRequest,
        optional=True,
        answer=answers.TryBegun,
        codes=(*BODY, *_DENIED, "not_found"),
    ),
    Operation(
        "get",
        "/admin/rollback",
        ADMIN,
        "What a rollback would do",
        "The edit that takes the file back to a generation.",
        answer=answers.Rollback,
        parameters=(
            Parameter(
                "generation",
                "Which; the last-known-good where it is left out.",
                {"type": "string", "pattern": "^[1-9][0-9]{0,11}$"},
            ),
        ),
        codes=("invalid_request", "not_found"),
    ),
    Operation(
        "post",
        "/admin/rollback",
        ADMIN,
        "Roll back",
        "A try of an earlier generation. What only the file may say stays as the file says it: `left_out`.",
        body=schema.RollbackRequest,
        optional=True,
        answer=answers.RolledBack,
        codes=(*BODY, *_DENIED, *_PLAN, *_FETCH),
    ),
    Operation(
        "post",
        "/admin/suspend",
        ADMIN,
        "Suspend",
        "Edits are read and nothing is changed, until somebody resumes. A restart does not end it.",
        body=schema.ByRequest,
        optional=True,
        answer=answers.Suspended,
        codes=(*BODY, *_DENIED, "model_swapping"),
    ),
    Operation(
        "delete",
        "/admin/suspend",
        ADMIN,
        "Resume",
        "The newest content of the file takes effect, unless it says `suspend: true` itself.",
        answer=answers.Resumed,
        codes=(*_DENIED, "model_swapping"),
    ),
)
