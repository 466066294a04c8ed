"""What installing and removing a service takes: exact commands, printed before any of them is run.

A running service must not take itself down on the way: `launchctl bootout` ends the very process that asked,
and the rest would never happen. Whoever runs these commands must be somebody else.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from appliance.services.definition import Service
from appliance.services.places import domain, plist_path, unit_path


@dataclass(frozen=True)
class Step:
    """command: its words. root: it needs to be run by root. may_fail: nothing is wrong if it does."""

    command: tuple[str, ...]
    root: bool = False
    may_fail: bool = False

    @property
    def shown(self) -> str:
        text = shlex.join(self.command)
        text = f"sudo {text}" if self.root else text
        return f"{text} || true" if self.may_fail else text


def launchd_install(service: Service, staged: Path, uid: int) -> list[Step]:
    """staged: where the rendered file lies. Safe to run again: what runs is replaced."""
    root = service.kind == "daemon"
    target, where = plist_path(service), domain(service, uid)
    job = f"{where}/{service.label}"
    assert service.logs is not None
    own = ("-o", "root", "-g", "wheel") if root else ()
    logs = ("-o", service.user or "root") if root else ()
    return [
        Step(("mkdir", "-p", str(target.parent)), root),
        Step(("install", "-d", "-m", "700", *logs, str(service.logs)), root),
        Step(("install", "-m", "644", *own, str(staged), str(target)), root),
        Step(("launchctl", "bootout", job), root, may_fail=True),
        Step(("launchctl", "enable", job), root),
        Step(("launchctl", "bootstrap", where, str(target)), root),
        Step(("launchctl", "kickstart", job), root),
    ]


def launchd_uninstall(service: Service, uid: int) -> list[Step]:
    root = service.kind == "daemon"
    job = f"{domain(service, uid)}/{service.label}"
    return [
        Step(("launchctl", "bootout", job), root, may_fail=True),
        Step(("rm", "-f", str(plist_path(service))), root),
    ]


def systemd_install(service: Service, staged: Path) -> list[Step]:
    root = service.kind == "daemon"
    target, name = unit_path(service), f"{service.label}.service"
    own = ("-o", "root", "-g", "root") if root else ()
    return [
        Step(("mkdir", "-p", str(target.parent)), root),
        Step(("install", "-m", "644", *own, str(staged), str(target)), root),
        Step((*systemctl(service), "daemon-reload"), root),
        Step((*systemctl(service), "enable", name), root),
        Step((*systemctl(service), "restart", name), root),
    ]


def systemd_uninstall(service: Service) -> list[Step]:
    root = service.kind == "daemon"
    name = f"{service.label}.service"
    return [
        Step((*systemctl(service), "disable", "--now", name), root, may_fail=True),
        Step(("rm", "-f", str(unit_path(service))), root),
        Step((*systemctl(service), "daemon-reload"), root),
    ]


def systemctl(service: Service) -> tuple[str, ...]:
    return ("systemctl",) if service.kind == "daemon" else ("systemctl", "--user")
