"""What a run is saved as: one JSON document, written whole or not at all. `format` rises with its shape.

format      1
lmx         version of this program
at          when it began, ISO 8601 in UTC         seconds    how long it took
kind        quick | full                           model      that was asked
appliance   {name, version, generation, digest, others}    others: requests in flight before it began
settings    the spec in force, as files write it (values from the environment by their names)
cells       digest of the cells that were asked, null where none was
max_tokens  longest answer of cells, null where each had its own       cut    failed answers cut there
figures     [{name, unit, better: higher|lower, values: one a round, median, low, high}]
quality     [{area, passed, asked, cells: [{name, passed: one a round, why: of the last failure}]}]
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.benching import cells, speed
from appliance.benching.run import Found, Plan

FORMAT = 1


class BadDocument(Exception):
    """A file that is no saved run, or one of another format."""


def made(
    plan: Plan, found: Found, appliance: Mapping[str, Any], settings: Any, began: float
) -> dict[str, Any]:
    """began: seconds since 1970."""
    return {
        "format": FORMAT,
        "lmx": __version__,
        "at": datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
        "seconds": round(found.seconds, 1),
        "kind": plan.kind,
        "model": plan.model,
        "appliance": dict(appliance),
        "settings": settings,
        "cells": cells.digest() if plan.cells else None,
        "max_tokens": plan.max_tokens,
        "cut": sum(verdict.cut for verdicts in found.verdicts.values() for verdict in verdicts),
        "figures": _figures(found),
        "quality": _quality(plan, found),
    }


def _figures(found: Found) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "unit": kind.unit,
            "better": "higher" if kind.higher else "lower",
            "values": [round(value, 3) for value in values],
            "median": round(statistics.median(values), 3),
            "low": round(min(values), 3),
            "high": round(max(values), 3),
        }
        for name, kind in speed.kinds().items()
        if (values := found.values.get(name))
    ]


def _quality(plan: Plan, found: Found) -> list[dict[str, Any]]:
    areas = []
    for area in cells.AREAS:
        asked = [cell for cell in plan.cells if cell.area == area]
        if not asked:
            continue
        records = [_cell(cell.name, found) for cell in asked]
        passed = sum(sum(record["passed"]) for record in records)
        count = sum(len(record["passed"]) for record in records)
        areas.append({"area": area, "passed": passed, "asked": count, "cells": records})
    return areas


def _cell(name: str, found: Found) -> dict[str, Any]:
    verdicts = found.verdicts[name]
    failures = [verdict.why for verdict in verdicts if not verdict.passed]
    return {
        "name": name,
        "passed": [verdict.passed for verdict in verdicts],
        "why": failures[-1] if failures else None,
    }


def save(document: Mapping[str, Any], path: Path) -> None:
    """Raises OSError."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        new.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def load(path: Path) -> dict[str, Any]:
    """Raises BadDocument, OSError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadDocument(f"{path} is no saved run: {error}") from error
    if not isinstance(document, dict) or "figures" not in document or "quality" not in document:
        raise BadDocument(f"{path} is no saved run of `lmx bench --save`")
    if document.get("format") != FORMAT:
        raise BadDocument(
            f"{path} has format {document.get('format')}, and this LMX reads {FORMAT}: save it anew"
        )
    return document
