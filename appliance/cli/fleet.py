"""`lmx fleet`: many machines at a glance."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.failure import CHANGES, CliError
from appliance.cli.options import DEFAULT_FILE, Format, Output, UnusedFile
from appliance.cli.terminal import Span, line, note, show, show_json, table

if TYPE_CHECKING:
    from appliance.fleet.inventory import Machine
    from appliance.fleet.verdict import Row

app = typer.Typer(no_args_is_help=True, help="Many machines at a glance; it only reads.")

INVENTORY = Path("fleet.yaml")
STYLES = {"silent": "bold red", "down": "red", "lagging": "yellow", "degraded": "yellow", "fine": "green"}

Inventory = Annotated[
    Path, typer.Option("--inventory", "-i", metavar="FILE", help="The file that lists the machines.")
]
Expect = Annotated[
    str | None,
    typer.Option(metavar="REVISION", help="Commit or digest they should have; default: what most have."),
]
Within = Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How long one machine may take.")]
AtOnce = Annotated[int, typer.Option(metavar="N", min=1, max=512, help="How many are asked at once.")]


@app.command()
def status(
    inventory: Inventory = INVENTORY,
    expect: Expect = None,
    within: Within = 5.0,
    at_once: AtOnce = 32,
    every: Annotated[bool, typer.Option("--all", help="Those that are fine too.")] = False,
    output: Output = Format.TEXT,
    file: UnusedFile = DEFAULT_FILE,
) -> None:
    """Who has converged, who lags, who is degraded, and why. Exits with 2 unless all are fine."""
    from appliance.fleet.poll import poll
    from appliance.fleet.verdict import STATES, verdict

    answers = asyncio.run(poll(_machines(inventory), at_once=at_once, within=within))
    found = verdict(answers, expect)
    if output is Format.JSON:
        show_json(
            {"wanted": found.wanted, "counts": found.counts, "machines": [asdict(r) for r in found.rows]}
        )
    else:
        rows = [_row(row) for row in found.rows if every or row.state != "fine"]
        if rows:
            show(table(("MACHINE", "STATE", "ACTIVE", "REVISION", "WHY"), rows))
        told = ", ".join(
            f"{found.counts[state]} {state}" for state in reversed(STATES) if found.counts[state]
        )
        wanted = f" on {found.wanted[:12]}" if found.wanted else ""
        text = f"{len(found.rows)} machines{wanted}: {told}"
        show(line(text, symbol=("✓", "green") if found.fine else ("!", "yellow")))
    if not found.fine:
        raise typer.Exit(CHANGES)


@app.command()
def serve(
    inventory: Inventory = INVENTORY,
    expect: Expect = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65_535, help="Port to listen on.")] = 1235,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=1.0, help="Time between two looks.")] = 10.0,
    within: Within = 5.0,
    at_once: AtOnce = 32,
    file: UnusedFile = DEFAULT_FILE,
) -> None:
    """Serve a page that tells the same, and keeps looking. Ends on ^C or SIGTERM."""
    import signal

    from appliance.fleet.serve import Fleet, serve
    from reconciler.spec import Server

    watched = Fleet(_machines(inventory), expect, every, within, at_once)

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        note(f"http://{host}:{port}/ tells of {inventory}; ^C ends it")
        await serve(watched, Server(host=host, port=port), stop)

    try:
        asyncio.run(run())
    except OSError as error:
        raise CliError(f"{host}:{port}: {error.strerror or error}") from error


def _machines(path: Path) -> list[Machine]:
    """Raises CliError."""
    from appliance.fleet.inventory import InventoryError, read

    try:
        return read(path, os.environ)
    except InventoryError as error:
        raise CliError(str(error)) from error


def _row(row: Row) -> tuple[Span, ...]:
    return row.name, (row.state, STYLES[row.state]), row.active or "–", (row.revision or "–")[:12], row.why
