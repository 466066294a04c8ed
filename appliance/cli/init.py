"""`lmx init`: a first file to edit, which serves the demo model that ships with LMX."""

from __future__ import annotations

from pathlib import Path

from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File
from appliance.cli.terminal import line, show

STARTER = Path(__file__).with_name("starter.yaml")


def init(file: File = DEFAULT_FILE) -> None:
    """Write a first FILE, with comments, that serves the demo model."""
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(STARTER.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise CliError(f"{file} is there already and stays as it is. Name another with -f FILE.") from error
    except OSError as error:
        raise CliError(f"{file} cannot be written: {error.strerror}.") from error
    start = "lmx up" if file == DEFAULT_FILE else f"lmx up -f {file}"
    show(line(f"wrote {file}; `{start}` serves it, and follows it as you edit it", symbol=("✓", "green")))
