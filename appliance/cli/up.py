"""`lmx up`: serve what the file says, until told to stop."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Annotated

import typer

from appliance import env_files
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File, Format


def up(
    file: File = DEFAULT_FILE,
    log: Annotated[
        Format | None,
        typer.Option(metavar="text|json", help="Form of the log on stderr; default: text on a terminal."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="TRACE", help="Write what memory, heat and load do, for `lmx simulate`."),
    ] = None,
    log_file: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Write the log here instead, and rotate it."),
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Lines NAME=VALUE to set first; only its owner may read it."),
    ] = None,
    profile: Annotated[str | None, typer.Option(metavar="NAME", help="Not supported yet.")] = None,
) -> None:
    """Serve what FILE says, and follow it as it is edited. Stops, after a drain, on ^C or SIGTERM."""
    if profile is not None:
        raise CliError("--profile is not supported yet; `lmx up` without it serves the whole file.")
    if env_file is not None:
        try:
            os.environ.update(env_files.read(env_file))
        except env_files.EnvFileError as error:
            raise CliError(str(error)) from error
    from appliance.app import run
    from appliance.logs import Style

    # 60,000 objects of imported libraries, which live as long as we do: the collector walked them all every
    # few thousand requests, and every stream stood still for 0.1 s.
    gc.freeze()
    style: Style | None = None if log is None else log.value
    raise typer.Exit(run(file, log=style, record=record, log_file=log_file))
