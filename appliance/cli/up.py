"""`lmx up`: serve what the file says, until told to stop."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Annotated

import typer

from appliance import env_files, profiles
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, EnvFile, File, Format, LogFile, LogForm, Profile
from appliance.held import Link


def up(
    file: File = DEFAULT_FILE,
    log: LogForm = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="TRACE", help="Write what memory, heat and load do, for `lmx simulate`."),
    ] = None,
    log_file: LogFile = None,
    env_file: EnvFile = None,
    profile: Profile = None,
) -> None:
    """Serve what FILE says, and follow it as it is edited. Stops, after a drain, on ^C or SIGTERM."""
    link = Link.inherited()
    try:
        raise typer.Exit(_serve(file, log, record, log_file, env_file, profile, link))
    except typer.Exit:
        raise
    except BaseException as error:
        if link is not None:  # whoever asked for this upgrade wants to know
            told = error.message if isinstance(error, CliError) else f"{type(error).__name__}: {error}"
            link.say("failed", reason=told)
        raise


def _serve(
    file: Path,
    log: Format | None,
    record: Path | None,
    log_file: Path | None,
    env_file: Path | None,
    profile: str | None,
    link: Link | None,
) -> int:
    try:
        served = profiles.existing(file, profile)
    except profiles.ProfileError as error:
        raise CliError(str(error)) from error
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
    name = None if served == file else profile
    return run(served, log=style, record=record, log_file=log_file, profile=name, link=link)
