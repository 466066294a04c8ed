"""`lmx events` and `lmx history`: what happened."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from appliance.cli import wording
from appliance.cli.address import connect
from appliance.cli.client import Appliance, NotRunning
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, LongFile, Output, Url
from appliance.cli.terminal import Line, Span, line, note, show, show_json, table
from appliance.cli.timeline import Filter, kinds, stored

AGAIN = 1.0  # seconds until the next try after the connection broke
BAD = ("Failed", "Rejected", "Error", "Quarantined", "Blocked", "RolledBack")
GOOD = ("Ready", "Applied", "Swapped", "Accepted", "Recovered", "Finished", "Listening")


def events(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new ones, until ^C.")] = False,
    telemetry: Annotated[bool, typer.Option(help="With -f: also the samples of speed and memory.")] = False,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only of this model, and of the machine's memory and heat."),
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only of this type; may be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="10m", help="Only from the last so many minutes.")
    ] = None,
    file: LongFile = DEFAULT_FILE,
    url: Url = None,
    output: Output = Format.TEXT,
) -> None:
    """Show what happened; -f goes on.

    -f means follow here, as in tail, so the file is named by --file or LMX_FILE.
    """
    wanted = Filter(model, kinds(kind), _moment(since))
    with connect(file, url) as appliance:
        if not follow:
            status = appliance.get("/status")
            recent = status.get("events") or []
            if not wanted.empty:
                recent = [event for event in stored(appliance, status) if wanted.takes(event)]
            if output is Format.JSON:
                show_json(recent)
            else:
                show(*(told(event) for event in recent)) if recent else show(
                    line("Nothing has happened yet." if wanted.empty else "No event is like that.")
                )
            return
        # Since when: from what is stored on, and then as it comes.
        for event in _followed(appliance, "0" if wanted.since is not None else ""):
            if event.get("type") == "telemetry":
                if not telemetry:
                    continue
            elif not wanted.takes(event):
                continue
            show_json(event, one_line=True) if output is Format.JSON else show(told(event))


def _moment(since: str | None) -> float | None:
    """Wall clock, seconds."""
    if since is None:
        return None
    from reconciler.units import parse_duration

    try:
        return time.time() - parse_duration(since)
    except ValueError as error:
        raise CliError(f"--since: {error}; write it with a unit, like 10m or 2h.") from error


def _followed(appliance: Appliance, last: str) -> Iterator[dict[str, Any]]:
    """Events above the id `last`, without end. After a break it goes on where it stopped, and says so."""
    connected = False
    while True:
        try:
            for event in appliance.events("/admin/events", headers={"last-event-id": last} if last else None):
                connected, last = True, event.id or last
                data = json.loads(event.data)
                if "error" in data:
                    raise NotRunning(f"{appliance.url} ended the stream: {data['error'].get('message')}")
                yield {"type": event.type, **data}
            note("the appliance ended the stream; connecting again")
        except NotRunning as error:
            if not connected:
                raise
            note(f"{error.message} Trying again.")
        time.sleep(AGAIN)


def told(event: Mapping[str, Any]) -> Line:
    kind = str(event.get("type", "?"))
    style = "red" if kind.endswith(BAD) else "green" if kind.endswith(GOOD) else "cyan"
    message = str(event.get("message") or "") or json.dumps(
        {key: value for key, value in event.items() if key not in ("type", "at", "id")}, ensure_ascii=False
    )
    return line((wording.clock(event.get("at")), "dim"), "  ", (f"{kind:<18}", style), " ", message)


def history(file: File = DEFAULT_FILE, url: Url = None, output: Output = Format.TEXT) -> None:
    """Show the generations of the spec, newest first."""
    with connect(file, url) as appliance:
        document = appliance.get("/status")
    entries = document.get("history") or []
    if output is Format.JSON:
        show_json(entries)
    elif not entries:
        show(line("No spec has been accepted yet."))
    else:
        notes = _notes(document)
        show(
            table(
                ("GENERATION", "ACCEPTED", "REACHED READY", "DIGEST", "NOTE"),
                [
                    [
                        str(entry.get("generation")),
                        wording.clock(entry.get("at")),
                        wording.clock(entry.get("applied_at")),
                        str(entry.get("digest") or "")[:12],
                        notes.get(entry.get("generation"), str(entry.get("message") or "")),
                    ]
                    for entry in entries
                ],
            )
        )


def _notes(document: Mapping[str, Any]) -> dict[Any, Span]:
    """Generation -> what is to be said of it: a try and a suspension keep the newest from being in force."""
    current = document.get("generation")
    if document.get("try"):
        return {current: ("the file; a try is in force", "yellow")}
    for override in document.get("overrides") or []:
        if override["kind"] == "suspend" and override.get("generation") != current:
            return {current: ("waits: suspended", "yellow"), override["generation"]: ("in force", "green")}
    return {current: ("in force", "green")}
