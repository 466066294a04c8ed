"""What a Mac that nobody sits at needs: it must not sleep, and must come back by itself.

From the outputs of `pmset`, `fdesetup`, `sysctl` and `launchctl`. No Mac was at hand: the tests read outputs
in the form that manual pages and public reports show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from appliance.doctor.finding import Finding, Run
from appliance.services.observed import launchctl

_SETTING = re.compile(r"^\s*(?P<name>[A-Za-z][A-Za-z ]*?)\s+(?P<value>\d+)\b", re.MULTILINE)


def checks(run: Run, label: str) -> Iterator[Finding]:
    """label: of the launchd service, if there is one."""
    yield from power(run(("pmset", "-g")))
    yield from filevault(run(("fdesetup", "status")))
    yield from wired(run(("sysctl", "-n", "iogpu.wired_limit_mb")))
    yield from service(run(("launchctl", "print", f"system/{label}")), label)


def power(printed: str | None) -> Iterator[Finding]:
    """`pmset -g`: the settings in use."""
    found = {match["name"]: int(match["value"]) for match in _SETTING.finditer(printed or "")}
    if "sleep" not in found:
        yield Finding("sleep", "unknown", "pmset does not tell whether this Mac sleeps")
    elif found["sleep"]:
        yield Finding(
            "sleep",
            "look",
            f"this Mac sleeps after {found['sleep']} minutes without use, and serves nobody then",
            "sudo pmset -a sleep 0",
        )
    else:
        yield Finding("sleep", "ok", "this Mac does not sleep")
    if "autorestart" not in found:
        yield Finding("restart", "unknown", "pmset does not tell whether this Mac starts after a power cut")
    elif not found["autorestart"]:
        yield Finding(
            "restart", "look", "this Mac stays off after a power cut", "sudo pmset -a autorestart 1"
        )
    else:
        yield Finding("restart", "ok", "this Mac starts again after a power cut")


def filevault(printed: str | None) -> Iterator[Finding]:
    if printed is None or "FileVault is" not in printed:
        yield Finding("filevault", "unknown", "fdesetup does not tell whether FileVault is on")
    elif "FileVault is On" in printed:
        yield Finding(
            "filevault",
            "look",
            "FileVault is on: after a restart this Mac waits for a password before anything runs",
            "where nobody is near: `sudo fdesetup authrestart` for planned restarts, or turn it off",
        )
    else:
        yield Finding("filevault", "ok", "FileVault is off: a restart needs nobody")


def wired(printed: str | None) -> Iterator[Finding]:
    """0: not set, so that macOS's own limit holds."""
    text = (printed or "").strip()
    if not text.isdecimal():
        yield Finding("gpu memory", "unknown", "sysctl does not tell the limit of GPU memory")
    elif text == "0":
        yield Finding("gpu memory", "ok", "the limit is macOS's own")
    else:
        yield Finding("gpu memory", "ok", f"the limit is set to {text} MiB")


def service(printed: str | None, label: str) -> Iterator[Finding]:
    if printed is None:
        yield Finding(
            "launchd",
            "look",
            f"there is no service {label}: LMX does not come back after a restart of this Mac",
            "lmx launchd install",
        )
        return
    seen = launchctl(printed)
    if seen.state == "running":
        yield Finding("launchd", "ok", f"{label} runs as process {seen.pid}")
    else:
        why = f", last exit {seen.exit_status}" if seen.exit_status is not None else ""
        yield Finding("launchd", "look", f"{label} is {seen.state}{why}", "look into its log, lmx.err too")
