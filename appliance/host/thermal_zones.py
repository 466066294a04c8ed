"""Linux: how hot it is, in the words of `names.HEAT`, from the thermal zones and their trip points.

    https://docs.kernel.org/driver-api/thermal/sysfs-api.html     temperatures in thousandths of a degree

A zone says itself at which temperatures what happens: at `passive` the system slows down, at `hot` it warns
of damage, at `critical` it switches off. `active` only turns a fan. The hottest zone, so judged, counts.
"""

from __future__ import annotations

import os

from appliance.host.files import number, text
from reconciler import names

NOMINAL, MODERATE, HEAVY, TRAPPING, SLEEPING = range(len(names.HEAT))
NEAR = 5_000  # thousandths of a degree below the first trip point that count as moderate
LIKELY_SLOWED = 10_000  # below `hot` or `critical`, in a zone that does not say when it slows down
MOST_TRIPS = 12  # THERMAL_MAX_TRIPS


def read(root: str) -> str | None:
    """None: no zone here has a temperature and a trip point."""
    folder = f"{root}/sys/class/thermal"
    try:
        zones = sorted(name for name in os.listdir(folder) if name.startswith("thermal_zone"))
    except OSError:
        return None
    levels = [level for zone in zones if (level := _zone(f"{folder}/{zone}")) is not None]
    return names.HEAT[max(levels)] if levels else None


def _zone(folder: str) -> int | None:
    temperature = number(text(f"{folder}/temp"))
    trips = _trips(folder)
    if temperature is None or not trips:
        return None
    if temperature >= trips.get("critical", temperature + 1):
        return SLEEPING
    if temperature >= trips.get("hot", temperature + 1):
        return TRAPPING
    slows = trips.get("passive", min(trips.values()) - LIKELY_SLOWED)
    if temperature >= slows:
        return HEAVY
    return MODERATE if temperature >= slows - NEAR else NOMINAL


def _trips(folder: str) -> dict[str, int]:
    """The lowest of each kind. Zero and below: a trip point that is switched off."""
    found: dict[str, int] = {}
    for i in range(MOST_TRIPS):
        kind = text(f"{folder}/trip_point_{i}_type").strip()
        if not kind:
            break
        at = number(text(f"{folder}/trip_point_{i}_temp"))
        if kind in ("passive", "hot", "critical") and at is not None and at > 0:
            found[kind] = min(at, found.get(kind, at))
    return found
