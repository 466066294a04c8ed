"""Imperative calls are visible, temporary layers over the file."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.machine import MINI, Machine
from tests.hub.hubserver import Hub


def test_load_and_unload_are_overrides_until_the_spec_says_otherwise(machine: Machine) -> None:
    spec = machine.up().spec()
    status, body = machine.call("POST", "/admin/models/load", {"model": "mini"})
    assert status == 200, body
    assert body["success"] is True
    assert body["load_time_ms"] > 0
    assert machine.answer("Who are you?", model="mini") != machine.answer("Who are you?", model="demo")
    assert machine.condition("Overridden")["message"] == "load mini"

    status, body = machine.call("POST", "/admin/models/unload", {"model": "demo"})
    assert status == 200, body
    assert body["freed_vram_gb"] > 0
    ready = machine.call("GET", "/readyz")
    assert ready[0] == 503
    assert ready[1]["ready"] is False
    assert machine.ask("Who are you?")[1]["error"]["code"] == "no-model-loaded"

    # Overrides survive a restart ...
    machine.stop()
    machine.up(wait=False)
    machine.until(lambda s: s["models"]["mini"]["state"] == "ready")
    assert machine.status()["models"]["demo"]["state"] == "on_disk"
    # ... an edit elsewhere leaves them ...
    machine.write({**spec, "queue": {"depth": 9}})
    machine.until(lambda s: s["generation"] == 2)
    assert machine.condition("Overridden")["status"] == "True"
    # ... and an edit of `active` ends them.
    machine.write({**spec, "active": "mini"})
    machine.until_synced("mini")
    assert machine.condition("Overridden")["status"] == "False"


def test_only_what_the_spec_names_can_be_loaded(shared: Machine) -> None:
    for name in ("nobody", "/etc", "../demo", "org/repo"):
        status, body = shared.call("POST", "/admin/models/load", {"model": name})
        assert (status, body["error"]["code"]) == (404, "model_not_found")


def test_overrides_deny_refuses(machine: Machine) -> None:
    spec = machine.spec()
    spec["server"]["overrides"] = "deny"
    machine.up(spec)
    status, body = machine.call("POST", "/admin/models/load", {"model": "mini"})
    assert (status, body["error"]["code"]) == (403, "managed_by_file")


def test_on_demand_loads_when_asked_and_is_paged_out_when_idle(machine: Machine) -> None:
    spec = machine.spec()
    spec["models"]["mini"] |= {"residency": "on_demand", "idle_timeout": "1s", "min_residency": "0s"}
    machine.up(spec)
    assert machine.status()["models"]["mini"]["state"] == "paged_out"
    assert machine.answer("Who are you?", model="mini")
    machine.until(lambda s: s["models"]["mini"]["state"] == "paged_out")
    assert machine.status()["models"]["demo"]["state"] == "ready"


def test_a_second_loaded_model_makes_a_swap_a_change_of_pointer(machine: Machine) -> None:
    spec = machine.spec()
    spec["models"]["mini"]["residency"] = spec["models"]["demo"]["residency"] = "loaded"
    machine.up(spec)
    status = machine.until(lambda s: s["models"]["mini"]["state"] == "ready")
    pids = {name: m["pid"] for name, m in status["models"].items()}
    machine.write({**spec, "active": "mini"})
    status = machine.until_synced("mini")
    assert {name: m["pid"] for name, m in status["models"].items()} == pids


def test_an_on_demand_model_that_a_call_loaded_is_unloaded_by_a_call(machine: Machine) -> None:
    spec = machine.spec()
    spec["models"]["mini"]["residency"] = "on_demand"
    machine.up(spec)
    assert machine.call("POST", "/admin/models/load", {"model": "mini"})[0] == 200
    status, body = machine.call("POST", "/admin/models/unload", {"model": "mini"})
    assert status == 200, body
    assert machine.status()["models"]["mini"]["state"] != "ready"


def test_a_load_that_another_call_takes_back_is_told_at_once(machine: Machine) -> None:
    hub = Hub.start()
    try:
        hub.add("lmx/mini", {f.name: f.read_bytes() for f in MINI.iterdir()})
        hub.gate = threading.Event()  # it can never finish loading
        machine.env = hub.environment(machine.folder / "hub")
        spec = machine.spec()
        spec["models"]["fetched"] = {"source": "lmx/mini"}
        machine.up(spec)
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(machine.call, "POST", "/admin/models/load", {"model": "fetched"})
            machine.until(lambda _: machine.condition("Overridden")["message"] == "load fetched")
            assert machine.call("POST", "/admin/models/unload", {"model": "fetched"})[0] == 200
            status, body = load.result(30)
        assert (status, body["error"]["code"]) == (503, "model_swapping")
        assert "another call" in body["error"]["message"]
    finally:
        hub.gate = None
        hub.close()
