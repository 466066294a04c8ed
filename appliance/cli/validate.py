"""`lmx validate` and `lmx schema`: what a file may say, and whether this one says it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from appliance.cli import wording
from appliance.cli.failure import ERROR, CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, UnusedFile
from appliance.cli.spec_file import content, parse
from appliance.cli.terminal import line, note, show, show_json


def validate(file: File = DEFAULT_FILE, output: Output = Format.TEXT) -> None:
    """Check FILE: exit 0 when it is valid, 1 with every problem."""
    from reconciler.loader import SpecError

    data = content(file)
    try:
        loaded = parse(file, data)
    except SpecError as error:
        if output is Format.JSON:
            show_json(
                {"valid": False, "problems": [asdict(problem) for problem in error.problems], "warnings": []}
            )
            raise typer.Exit(ERROR) from error
        raise CliError(
            f"{file} is not valid: {wording.plural(len(error.problems), 'problem')}\n{error}"
        ) from error
    if output is Format.JSON:
        answer: dict[str, Any] = {"valid": True, "problems": [], "warnings": list(loaded.warnings)}
        show_json({**answer, "digest": loaded.digest, "content_digest": loaded.content_digest})
        return
    for warning in loaded.warnings:
        note(f"warning: {warning}")
    active = f"active: {loaded.spec.active}" if loaded.spec.active else "deliberately none active"
    count = wording.plural(len(loaded.spec.models), "model")
    show(line(f"{file} is valid: {count}, {active}", symbol=("✓", "green")))


def schema(file: UnusedFile = DEFAULT_FILE) -> None:
    """Print the JSON Schema of FILE, for editors and CI."""
    from reconciler.schema import build

    show_json(build())
