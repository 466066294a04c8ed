"""`lmx completion`: what makes a shell complete verbs and options.

The scripts are Typer's, from modules that it does not call public: the tests ask a real bash. The shell
runs `lmx` itself to ask what may follow.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from appliance.cli.options import DEFAULT_FILE, UnusedFile

VARIABLE = "_LMX_COMPLETE"


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="For which shell.")],
    file: UnusedFile = DEFAULT_FILE,
) -> None:
    """Print a script that completes `lmx`: eval "$(lmx completion bash)" in the shell's start-up file."""
    from typer._completion_shared import get_completion_script

    sys.stdout.write(get_completion_script(prog_name="lmx", complete_var=VARIABLE, shell=shell.value) + "\n")


def prepare() -> None:
    """Teach Typer to answer a shell that asks; costs nothing otherwise."""
    if VARIABLE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
