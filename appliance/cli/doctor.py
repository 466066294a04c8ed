"""`lmx doctor`: what on this machine would keep LMX from serving well."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from appliance.cli.failure import ERROR, CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output
from appliance.cli.terminal import line, show, show_json

if TYPE_CHECKING:
    from appliance.doctor.finding import Finding

SYMBOLS = {"ok": ("✓", "green"), "look": ("!", "yellow"), "bad": ("✗", "red"), "unknown": ("?", "dim")}


def doctor(file: File = DEFAULT_FILE, output: Output = Format.TEXT) -> None:
    """Look for what would keep LMX from serving well. Exits with 1 where something is bad."""
    found = []
    for finding in _checks(file):
        found.append(finding)
        if output is Format.TEXT:
            text = f"{finding.level:7} {finding.about}: {finding.message}"
            show(line(f"{text}; {finding.fix}" if finding.fix else text, symbol=SYMBOLS[finding.level]))
    if output is Format.JSON:
        show_json([asdict(finding) for finding in found])
    if any(finding.level == "bad" for finding in found):
        raise typer.Exit(ERROR)


def _checks(file: Path) -> Iterator[Finding]:
    from appliance.doctor import mac, machine, places
    from appliance.host.commands import run
    from appliance.services.definition import LABEL

    yield from machine.python()
    yield from machine.mlx()
    yield from machine.memory()
    yield from machine.files()
    yield from _of_file(file)
    yield from places.hub(os.environ)
    if sys.platform == "darwin":
        yield from mac.checks(run, LABEL)


def _of_file(file: Path) -> Iterator[Finding]:
    from appliance.cli.address import reachable
    from appliance.cli.client import Appliance, NotRunning
    from appliance.cli.spec_file import read
    from appliance.doctor import places
    from appliance.doctor.finding import Finding
    from appliance.hub.cache import cache_folder

    try:
        spec = read(file).spec
    except CliError as error:
        yield Finding("file", "bad", error.message, "`lmx init` writes a first one")
        return
    yield Finding("file", "ok", f"{file} is valid")
    try:
        with Appliance(reachable(spec.server.host, spec.server.port)) as appliance:
            appliance.get("/healthz")
        ours = True
    except (NotRunning, CliError):
        ours = False
    yield from places.port(spec, ours=ours)
    if spec.git is not None:
        yield from places.git(spec.git)
    cache = Path(spec.cache.path).expanduser() if spec.cache.disk else None
    base = file.absolute().parent
    folder = base / Path(spec.state.path).expanduser()
    yield from places.disks(folder, None if cache is None else base / cache, cache_folder(), spec.cache.disk)
