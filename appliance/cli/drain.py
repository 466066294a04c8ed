"""`lmx drain`: before maintenance, let what runs come to its end and send new work elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from appliance.cli import wording
from appliance.cli.address import connect
from appliance.cli.client import Appliance
from appliance.cli.failure import ERROR, CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.terminal import Busy, busy, line, note, show, show_json

EVERY = 0.2  # seconds between two looks


def drain(
    session_timeout: Annotated[
        str,
        typer.Option("--session-timeout", metavar="DURATION", help="How long known sessions are served."),
    ] = "30s",
    end: Annotated[bool, typer.Option("--end", help="Take new sessions again.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until nothing is in flight.")] = True,
    file: File = DEFAULT_FILE,
    url: Url = None,
    output: Output = Format.TEXT,
) -> None:
    """Take no new session; serve known ones for a while, then wait until nothing is in flight.

    New requests are refused with `overloaded` and /readyz says Drained, so that a balancer asks another
    machine. It lasts until `lmx drain --end`, or until `active` changes in the file.
    """
    with connect(file, url) as appliance:
        if end:
            _end(appliance, output)
            return
        answer = appliance.post("/admin/drain", {"session_timeout": session_timeout})
        if wait:
            with busy("Draining ...") as spinner:
                deadline = time.monotonic() + float(answer["session_timeout_s"])
                answer = {**answer, **_watch(appliance, deadline, spinner)}
    if output is Format.JSON:
        show_json(answer)
    elif wait:
        show(line("drained: nothing is in flight", symbol=("✓", "green")))
    else:
        show(line(f"draining: {_left(answer)}", symbol=("✓", "green")))
    note("new sessions are refused until `lmx drain --end`")


def _end(appliance: Appliance, output: Format) -> None:
    answer = appliance.delete("/admin/drain")
    if output is Format.JSON:
        show_json(answer)
    else:
        text = "new sessions are taken again" if answer.get("cleared") else "it was not drained"
        show(line(text, symbol=("✓", "green")))


def _watch(appliance: Appliance, deadline: float, spinner: Busy) -> Mapping[str, Any]:
    """Look until the sessions have had their time and nothing is in flight."""
    while True:
        document = appliance.get("/status")
        if not _drained(document):
            raise CliError("the drain was ended by another call or an edit; new sessions are taken.", ERROR)
        traffic = document.get("traffic") or {}
        held = {"in_flight": traffic.get("in_flight", 0), "queued": traffic.get("queued", 0)}
        time_left = deadline - time.monotonic()
        if time_left <= 0 and not any(held.values()):
            return held
        sessions = f"; known sessions for another {wording.duration(time_left)}" if time_left > 0 else ""
        spinner.say(f"Draining: {_left(held)}{sessions}")
        time.sleep(EVERY)


def _left(held: Mapping[str, Any]) -> str:
    return f"{held.get('in_flight', 0)} in flight, {held.get('queued', 0)} waiting"


def _drained(document: Mapping[str, Any]) -> bool:
    conditions = {str(c["type"]): c for c in document.get("conditions") or []}
    return bool(conditions.get("Ready", {}).get("reason") == "Drained")
