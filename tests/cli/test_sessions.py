"""`lmx sessions`."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.cli.standin import Appliance, Lmx

TALK: dict[str, Any] = {
    "name": "my talk",
    "model": "demo",
    "key": None,
    "tokens": 1963,
    "used_at": 0.0,
    "memory_bytes": 1507584,
    "disk_bytes": 0,
    "loaded": True,
}


def test_sessions_are_listed(lmx: Lmx, appliance: Appliance) -> None:
    talks = [
        {**TALK, "used_at": time.time() - 5400},
        {**TALK, "name": "old", "key": "0a1b2c3d", "loaded": False},
    ]
    appliance.on("GET /admin/sessions", {"sessions": talks})
    lines = lmx("sessions", "list").out.splitlines()
    assert lines[0].split() == ["SESSION", "MODEL", "TOKENS", "MEMORY", "DISK", "USED", "KEY"]
    assert lines[1].split() == ["my", "talk", "demo", "1963", "1.4", "MiB", "-", "1h30m", "ago", "-"]
    assert lines[2].split()[-1] == "0a1b2c3d"
    assert json.loads(lmx("sessions", "list", "-o", "json").out) == {"sessions": talks}
    appliance.on("GET /admin/sessions", {"sessions": []})
    assert lmx("sessions", "list").out.startswith("no session: requests name theirs with X-LMX-Session")


def test_one_is_dropped_or_all_are_and_never_by_leaving_something_out(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("DELETE /admin/sessions?name=my+talk&model=demo", {"success": True, "dropped": [TALK]})
    appliance.on("DELETE /admin/sessions?name=my+talk", {"success": True, "dropped": []})
    appliance.on("DELETE /admin/sessions", {"success": True, "dropped": [TALK, TALK]})
    assert (
        lmx("sessions", "drop", "my talk", "--model", "demo").out == "1 session forgotten, 1.4 MiB at most\n"
    )
    none = lmx("sessions", "drop", "my talk")
    assert (none.code, none.out) == (1, "there was no such session\n")
    assert lmx("sessions", "drop", "--all").out == "2 sessions forgotten, 2.9 MiB at most\n"
    asked = len(appliance.asked)
    for words in (("drop",), ("drop", "my talk", "--all")):
        refused = lmx("sessions", *words)
        assert refused.code == 1
        assert "either the NAME of a session, or --all" in refused.err
    assert len(appliance.asked) == asked
