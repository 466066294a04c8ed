"""Writes the golden files anew: `python -m tests.services.golden`. Look at the difference first."""

from __future__ import annotations

from dataclasses import replace

from appliance.services import render
from tests.services.test_services import AGENT, DAEMON, GOLDEN

if __name__ == "__main__":
    for service in (DAEMON, AGENT):
        (GOLDEN / f"{service.kind}.plist").write_bytes(render.plist(service))
        (GOLDEN / f"{service.kind}.service").write_bytes(render.unit(replace(service, logs=None)))
