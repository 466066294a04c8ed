"""How many files and sockets this process may hold open.

The usual soft limit is 1,024 on Linux and 256 on macOS: a few hundred idle clients would use it up, and
then neither `/healthz` could be answered nor an engine started. The hard limit is far higher, and any
process may go up to it.
"""

from __future__ import annotations

import logging
import resource

log = logging.getLogger("lmx")

ENOUGH = 65_536
MACOS_MOST = 10_240  # OPEN_MAX: what macOS takes at most, whatever it says is the hard limit


def raise_limit() -> int:
    """As far as the system lets us, up to ENOUGH; returns the limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    goal = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    for most in (goal, min(goal, MACOS_MOST)):
        if soft == resource.RLIM_INFINITY or soft >= most:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        except (ValueError, OSError) as error:
            log.info("no more than %d open files are allowed here: %s", soft, error)
    return soft
