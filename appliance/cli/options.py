"""Options that mean the same in every verb."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_FILE = Path("lmx.yaml")
FILE_VARIABLE = "LMX_FILE"


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


File = Annotated[
    Path,
    typer.Option(
        "-f", "--file", envvar=FILE_VARIABLE, metavar="FILE", help="The file that says what to serve."
    ),
]
# For `lmx events`, where -f means follow, as it does in tail.
LongFile = Annotated[
    Path,
    typer.Option("--file", envvar=FILE_VARIABLE, metavar="FILE", help="The file that says what to serve."),
]
# For verbs that read no file: accepted, so that a script can pass it to any verb.
UnusedFile = Annotated[Path, typer.Option("-f", "--file", envvar=FILE_VARIABLE, metavar="FILE", hidden=True)]
Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Address of the appliance; default: host and port in FILE."),
]
Output = Annotated[
    Format, typer.Option("-o", "--output", metavar="text|json", help="json is stable, for scripts.")
]
Profile = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Serve lmx.NAME.yaml beside FILE, with a state of its own."),
]
# How a process that serves is started: the same of `lmx up` and of the holder.
LogForm = Annotated[
    Format | None,
    typer.Option(
        "--log", metavar="text|json", help="Form of the log on stderr; default: text on a terminal."
    ),
]
LogFile = Annotated[
    Path | None, typer.Option("--log-file", metavar="PATH", help="Write the log here instead, and rotate it.")
]
EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file", metavar="PATH", help="Lines NAME=VALUE to set first; only its owner may read it."
    ),
]
