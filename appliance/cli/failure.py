"""The one way a verb fails on purpose: a line on stderr that says what to do, and an exit code.

0  done                                       3  `lmx wait`: the time ran out
1  an error: usage, file, appliance           4  `lmx wait`: it was rejected, waiting longer cannot help
2  `lmx plan`, `diff`: there are changes    130  interrupted
"""

from __future__ import annotations

ERROR = 1
CHANGES = 2
TIMED_OUT = 3
REJECTED = 4
INTERRUPTED = 130


class CliError(Exception):
    """An expected failure. `message` may have several lines; `code` is the exit status."""

    def __init__(self, message: str, code: int = ERROR) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
