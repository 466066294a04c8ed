"""That the machine does not go to sleep while LMX serves: a Mac, where sleep ends every connection.

`caffeinate -s -w PID` holds the assertion "the system must not sleep" for as long as the process PID lives,
and only while the Mac has mains power: a laptop on its battery sleeps as its owner set it. It needs no
root, nothing has to be given back after a crash, and `pmset -g assertions` shows it with our process.

No Mac was at hand: tested with a stand-in for the command. Linux machines that serve do not sleep by
themselves, so that nothing is done there.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

log = logging.getLogger("lmx.host")

CAFFEINATE = ("/usr/bin/caffeinate", "-s", "-w")
_GRACE_S = 2.0


@contextmanager
def kept_awake(command: Sequence[str] | None = None) -> Iterator[int | None]:
    """While the block runs. Gives the process id of what holds it; None where nothing does.

    command: what takes a process id as its last word; this platform's if None. Serving goes on where it
    cannot be started, with a warning.
    """
    if command is None:
        command = CAFFEINATE if sys.platform == "darwin" else ()
    if not command:
        yield None
        return
    try:
        holder = subprocess.Popen(
            [*command, str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )
    except OSError as error:
        log.warning("this Mac may go to sleep while it serves: %s: %s", command[0], error.strerror)
        yield None
        return
    try:
        yield holder.pid
    finally:
        holder.terminate()
        try:
            holder.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            holder.kill()
            holder.wait()
