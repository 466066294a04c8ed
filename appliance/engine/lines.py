"""What the parent is told of a row: its newest text, and how it ended."""

from __future__ import annotations

import logging

from appliance.engine.decode import Row
from appliance.engine.load import is_memory
from appliance.wire import Finish
from appliance.wire import Row as Line

log = logging.getLogger(__name__)


def newest(row: Row, token: int, end_tokens: frozenset[int]) -> Line | None:
    """Of a row's newest token; None: nothing to see yet. `finish` is set where the row ends with it."""
    job = row.job
    finish: Finish | None = None
    try:
        if token in end_tokens and not job.ignore_eos:
            piece, finish = row.output.end(), "stop"
        else:
            piece = row.output.push(token)
            if piece.stop is not None:
                finish = "stop"
            elif row.produced >= job.max_tokens:
                rest = row.output.end()
                piece = type(piece)(piece.text + rest.text, rest.stop)
                finish = "length" if rest.stop is None else "stop"
    except Exception as error:
        log.exception("cannot detokenise token %d", token)
        return failed(row, f"token {token} cannot be written as text: {describe(error)}")
    if finish is None and not piece.text:
        return None
    return Line(job.rid, piece.text, row.produced, finish, None, piece.stop)


def failed(row: Row, message: str) -> Line:
    return Line(row.job.rid, "", row.produced, "error", message)


def cancelled(row: Row) -> Line:
    return Line(row.job.rid, "", row.produced, "cancelled")


def describe(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return f"there was not enough memory for this step: {text}" if is_memory(error) else text
