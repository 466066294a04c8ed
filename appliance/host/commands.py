"""What a command of the system prints."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence

log = logging.getLogger("lmx.host")

TIMEOUT_S = 3.0


def run(command: Sequence[str]) -> str | None:
    """Its standard output; None when it could not be run, failed, or took too long."""
    try:
        # close_fds=False: posix_spawn instead of a fork of this process. Python's own files do not leak:
        # they are closed on exec.
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            close_fds=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.debug("%s: %s", command[0], error)
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
