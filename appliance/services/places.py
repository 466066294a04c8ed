"""Where each manager looks for a service's file, and who may write there."""

from __future__ import annotations

from pathlib import Path

from appliance.services.definition import Kind, Service


def plist_path(service: Service) -> Path:
    name = f"{service.label}.plist"
    if service.kind == "daemon":
        return Path("/Library/LaunchDaemons") / name
    return service.home / "Library/LaunchAgents" / name


def unit_path(service: Service) -> Path:
    name = f"{service.label}.service"
    if service.kind == "daemon":
        return Path("/etc/systemd/system") / name
    return service.home / ".config/systemd/user" / name


def mac_logs(kind: Kind, home: Path) -> Path:
    return Path("/Library/Logs/LMX") if kind == "daemon" else home / "Library/Logs/LMX"


def domain(service: Service, uid: int) -> str:
    """launchd's name for where the job lives. An agent without a login session has none to live in."""
    return "system" if service.kind == "daemon" else f"gui/{uid}"
