"""Reading the file that a verb was given, with the loader's own words where it is wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def laid(file: Path, config: Mapping[str, Any]) -> Loaded:
    """`file` as the appliance with this `/admin/config` would have it: beside Git, with its other layers."""
    from appliance import against
    from reconciler.loader import SpecError

    content(file)  # told in this module's words where it is not there
    try:
        return against.read(file, config)
    except SpecError as error:
        raise CliError(str(error)) from error


def parse(file: Path, data: bytes) -> Loaded:
    """Raises SpecError."""
    from reconciler.loader import load_text

    return load_text(data, path=file, env=os.environ)


def content(file: Path) -> bytes:
    """What `file` and the bases it extends say, as `parse` takes it; of a plain file, its bytes."""
    from reconciler.sources.file import SourceError
    from reconciler.sources.local import LocalSource

    if not os.path.lexists(file):
        raise CliError(
            f"there is no {file} here. Name a file with -f FILE, or write a first one with `lmx init`."
        )
    try:
        if file.is_fifo() or file.is_char_device():
            return file.read_bytes()  # `-f <(...)`, `-f /dev/stdin`: read once, and without a folder
        return LocalSource(file).read().data
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}.") from error
    except SourceError as error:
        raise CliError(f"{error}.") from error
