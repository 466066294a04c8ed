"""`lmx models list|load|unload|reload` and `lmx reconcile`."""

from __future__ import annotations

import json

from tests.cli.standin import Appliance, Lmx, Reply

LISTED = {
    "models": [
        {
            "id": "demo",
            "declared": True,
            "source": "builtin:lmx-demo",
            "revision": None,
            "loaded": True,
            "state": "ready",
            "vram_gb": 0.25,
        },
        {
            "id": "org/other",
            "declared": False,
            "source": "org/other",
            "revision": "1f2e3d4",
            "loaded": False,
            "state": "on_disk",
            "vram_gb": 0.0,
            "size_bytes": 5 * 2**30,
        },
    ]
}
LOADED = {"success": True, "model": "demo", "load_time_ms": 1234, "vram_gb": 0.25}


def test_the_list_tells_what_the_file_names_from_what_only_lies_in_the_cache(
    lmx: Lmx, appliance: Appliance
) -> None:
    appliance.on("GET /admin/models", LISTED)
    lines = lmx("models", "list").out.splitlines()
    assert lines[1].split() == ["demo", "ready", "256", "MiB", "-", "builtin:lmx-demo"]
    assert lines[2].split() == ["org/other", "on_disk", "-", "5.0", "GiB", "not", "in", "the", "file"]
    assert json.loads(lmx("models", "list", "-o", "json").out) == LISTED


def test_load_waits_and_tells_how_long_it_took(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("POST /admin/models/load", LOADED)
    assert lmx("models", "load", "demo").out == "demo is ready: 1.2 s, 0.25 GiB\n"
    assert appliance.asked[-1][1] == {"model": "demo"}
    assert json.loads(lmx("models", "load", "demo", "-o", "json").out) == LOADED


def test_a_refused_load_is_told_in_the_appliance_s_words(lmx: Lmx, appliance: Appliance) -> None:
    error = {"error": {"message": "it needs 9 GiB and 4 are free", "code": "insufficient_memory"}}
    appliance.on("POST /admin/models/load", Reply(error, 507))
    result = lmx("models", "load", "demo")
    assert (result.code, result.out) == (1, "")
    assert result.err == "lmx: it needs 9 GiB and 4 are free (insufficient_memory)\n"


def test_unload_one_or_the_active_one(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("POST /admin/models/unload", {"success": True, "freed_vram_gb": 0.25})
    assert lmx("models", "unload", "demo").out == "unloaded: 0.25 GiB given back\n"
    assert appliance.asked[-1][1] == {"model": "demo"}
    lmx("models", "unload")
    assert appliance.asked[-1][1] == {}


def test_reload_is_an_unload_and_a_load(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("POST /admin/models/unload", {"success": True, "freed_vram_gb": 0.25})
    appliance.on("POST /admin/models/load", LOADED)
    assert lmx("models", "reload", "demo").code == 0
    assert [route for route, _, _ in appliance.asked if route.startswith("POST")] == [
        "POST /admin/models/unload",
        "POST /admin/models/load",
    ]


def test_the_spinner_of_a_terminal_leaves_only_the_result(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("POST /admin/models/load", LOADED)
    shown = lmx.terminal("models", "load", "demo")
    assert shown.code == 0
    assert "✓ demo is ready" in shown.out.replace("\x1b[32m", "").replace("\x1b[0m", "")


def test_reconcile_asks_for_everything_to_be_tried_anew(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("POST /admin/reconcile", {"success": True, "generation": 3})
    assert lmx("reconcile").out == "everything is tried anew\n"


def test_config_of_the_running_appliance(lmx: Lmx, appliance: Appliance) -> None:
    answer = {
        "generation": 4,
        "spec": {"name": "${LMX_NAME}", "active": None, "queue": {"depth": 9}},
        "origins": {
            "name": {"kind": "environment", "file": "/etc/lmx/lmx.yaml", "line": 2, "column": 1},
            "active": {"kind": "try", "file": "new.yaml", "line": 1, "column": 1},
            "queue.depth": {"kind": "default"},
        },
        "effective": {"queue.depth": {"value": 4, "why": "thermal"}},
        "in_force": {"generation": 3, "suspended": True, "tried": True},
    }
    appliance.on("GET /admin/config?origins=true", answer)
    lines = [" ".join(line.split()) for line in lmx("config").out.splitlines()]
    assert lines == [
        "# generation 3, suspended, while generation 4 waits, with a tried spec over it",
        "name: ${LMX_NAME} # from the environment, lmx.yaml:2:1",
        "active: null # tried, new.yaml:1:1",
        "queue:",
        "depth: 9 # default; in force: 4, thermal",
    ]
