"""Reading the file that a verb was given, with the loader's own words where it is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.cli.failure import CliError

if TYPE_CHECKING:
    from reconciler.loader import Loaded


def read(file: Path) -> Loaded:
    """The valid spec in `file`. Raises CliError with every problem, one a line."""
    from reconciler.loader import SpecError

    try:
        return parse(file, content(file))
    except SpecError as error:
        raise CliError(str(error)) from error


def parse(file: Path, data: bytes) -> Loaded:
    """Raises SpecError."""
    from reconciler.loader import load_text

    return load_text(data, path=file, env=os.environ)


def content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise CliError(
            f"there is no {file} here. Name a file with -f FILE, or write a first one with `lmx init`."
        ) from error
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}.") from error
