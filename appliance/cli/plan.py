"""`lmx plan`: what would happen if FILE were saved now, before it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli import wording
from appliance.cli.address import connect
from appliance.cli.client import NotRunning
from appliance.cli.failure import CHANGES, ERROR, CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.spec_file import read
from appliance.cli.status import over_the_file
from appliance.cli.terminal import Span, line, note, show, show_json, table

MARKS = {
    "~": ("changed in place", "cyan"),
    "+/-": ("new engine beside the old one, no outage", "green"),
    "-/+": ("drain first, requests wait", "yellow"),
    "+": ("added", "green"),
    "-": ("removed", "red"),
    "!": ("other address", "yellow"),
    "!!": ("needs a restart of LMX", "bold red"),
    "x": ("refused, what runs goes on", "bold red"),
}


def plan(
    file: File = DEFAULT_FILE,
    url: Url = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="URL", help="As --url; and it is an error (exit 1) when nothing answers there."),
    ] = None,
    running: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File that tells where the appliance is, where FILE moves it."),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Show what FILE would change: exit 0 nothing, 2 changes, 1 where part of it is refused.

    Compares with the running appliance. Where no appliance answers, the plan is what `lmx up` would do.
    """
    if against is None:
        read(file)  # beside Git, a file of the repository need not be whole: then the appliance has the rest
    connection = connect(running or file, against or url)
    address = connection.url
    try:
        with connection as appliance:
            status: dict[str, Any] | None = appliance.get("/status")
            config: dict[str, Any] | None = appliance.get("/admin/config")
    except NotRunning:
        if against is not None:
            raise
        status = config = None
    steps = _preview(file, status, config)
    if status is not None and (words := over_the_file(status)):
        note(words)
    if output is Format.JSON:
        show_json({"running": status is not None, "url": address, "changes": steps})
    elif steps:
        show(table(("", "ACTION", "MODEL", "FORCED BY", "OUTAGE", "WHY"), [_row(step) for step in steps]))
        used = {str(step.get("mark")) for step in steps}
        show(
            line((", ".join(f"{mark} {words}" for mark, (words, _) in MARKS.items() if mark in used), "dim"))
        )
        whom = (
            f"against {status.get('name')} at {address}"
            if status
            else f"nothing runs at {address}: this is what `lmx up` does"
        )
        show(line(f"{wording.plural(len(steps), 'change')}, {whom}"))
    else:
        show(line(f"no changes: this is what {address} runs", symbol=("✓", "green")))
    refused = any(step.get("action") == "refused" for step in steps)
    raise typer.Exit(ERROR if refused else CHANGES if steps else 0)


def _preview(
    file: Path, status: dict[str, Any] | None, config: dict[str, Any] | None
) -> list[dict[str, Any]]:
    from appliance.planning import NotComparable, preview
    from reconciler.loader import SpecError
    from reconciler.sources.file import SourceError

    try:
        return preview(file, status, config)
    except (SpecError, SourceError, NotComparable) as error:
        raise CliError(str(error)) from error


def _row(step: dict[str, Any]) -> list[Span]:
    mark = str(step.get("mark") or "")
    return [
        (mark, MARKS.get(mark, ("", ""))[1]),
        *(str(step.get(key) or "-") for key in ("action", "model", "field", "outage", "reason")),
    ]
