"""What a service manager says of a service, from the text of its own command.

`launchctl print` is for people and its form is promised by nobody: only single lines are looked for, at the
first level of indentation, and what is not found is None. Recorded outputs stand in the tests; none of it has
been run on a Mac by us.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_LINE = re.compile(r"^(?:\t| {4})(?P<name>[a-z][a-z ]*[a-z]) = (?P<value>.*)$", re.MULTILINE)
_CODE = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Seen:
    """state: the manager's own word. runs: starts so far. exit_status: of the last one."""

    state: str
    pid: int | None = None
    runs: int | None = None
    exit_status: int | None = None
    detail: str | None = None


def launchctl(printed: str) -> Seen:
    """From `launchctl print DOMAIN/LABEL`."""
    values: dict[str, str] = {}
    for match in _LINE.finditer(printed):
        values.setdefault(match["name"], match["value"].strip())
    return Seen(
        state=values.get("state", "unknown"),
        pid=_number(values, "pid"),
        runs=_number(values, "runs"),
        exit_status=_number(values, "last exit code"),
        detail=values.get("last terminating signal"),
    )


def systemctl(printed: str) -> Seen:
    """From `systemctl show --property=ActiveState,SubState,MainPID,NRestarts,ExecMainStatus,Result UNIT`."""
    values = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
    state = values.get("ActiveState", "unknown")
    sub, result = values.get("SubState"), values.get("Result")
    pid = _number(values, "MainPID")
    return Seen(
        state=f"{state} ({sub})" if sub else state,
        pid=pid or None,
        runs=_number(values, "NRestarts"),
        exit_status=None if pid else _number(values, "ExecMainStatus"),
        detail=result if result not in (None, "", "success") else None,
    )


def _number(values: Mapping[str, str], name: str) -> int | None:
    found = _CODE.match(values.get(name, ""))
    return int(found[0]) if found else None
