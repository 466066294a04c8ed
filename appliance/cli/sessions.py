"""`lmx sessions ...`: named conversations that the prompt cache keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from appliance.cli import wording
from appliance.cli.address import connect
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.terminal import line, show, show_json, table

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List and drop named conversations.")


@app.command("list")
def list_sessions(file: File = DEFAULT_FILE, url: Url = None, output: Output = Format.TEXT) -> None:
    """List the conversations that requests have named, the most recently used first."""
    with connect(file, url) as appliance:
        answer = appliance.get("/admin/sessions")
    sessions = answer.get("sessions") or []
    if output is Format.JSON:
        show_json(answer)
    elif sessions:
        head = ("SESSION", "MODEL", "TOKENS", "MEMORY", "DISK", "USED", "KEY")
        show(table(head, [_row(session) for session in sessions]))
    else:
        show(line("no session: requests name theirs with X-LMX-Session or prompt_cache_key"))


def _row(session: Mapping[str, Any]) -> list[str]:
    memory, disk = session.get("memory_bytes") or 0, session.get("disk_bytes") or 0
    return [
        str(session.get("name")),
        str(session.get("model")),
        str(session.get("tokens")),
        wording.size(memory) if memory else "-",
        wording.size(disk) if disk else "-",
        wording.ago(session.get("used_at")),
        str(session.get("key") or "-"),
    ]


@app.command()
def drop(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="As `lmx sessions list` shows it.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Of this model only.")] = None,
    file: File = DEFAULT_FILE,
    url: Url = None,
    output: Output = Format.TEXT,
) -> None:
    """Forget a conversation, in memory and on disk. What other texts share stays."""
    if (name is None) != everything:
        raise CliError("say either the NAME of a session, or --all.")
    wish = {key: value for key, value in (("name", name), ("model", model)) if value is not None}
    with connect(file, url) as appliance:
        answer = appliance.delete("/admin/sessions" + (f"?{urlencode(wish)}" if wish else ""))
    dropped = answer.get("dropped") or []
    if output is Format.JSON:
        show_json(answer)
    elif dropped:
        freed = sum((one.get("memory_bytes") or 0) + (one.get("disk_bytes") or 0) for one in dropped)
        text = f"{wording.plural(len(dropped), 'session')} forgotten, {wording.size(freed)} at most"
        show(line(text, symbol=("✓", "green")))
    else:
        show(line("there was no such session" if name is not None else "there was none"))
    if not dropped and name is not None:
        raise typer.Exit(1)
