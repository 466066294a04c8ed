"""`lmx drain` and `lmx warmup` against a real appliance."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

from tests.e2e.http_stream import Answer, post
from tests.e2e.machine import Machine

CHAT = "/v1/chat/completions"
LONG = {"messages": [{"role": "user", "content": "Count"}], "stream": True}


def lmx(machine: Machine, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance.cli", *words, "-f", str(machine.file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=machine.folder)


def ask(machine: Machine, session: str | None) -> tuple[int, str]:
    fields = {} if session is None else {"prompt_cache_key": session}
    status, body = machine.ask("Who are you?", **fields)
    return status, "" if status == 200 else str(body["error"]["code"])


def test_a_drain_serves_known_sessions_for_a_while_and_ends_when_told(machine: Machine) -> None:
    machine.up()
    assert ask(machine, "ada") == (200, "")
    status, body = machine.call("POST", "/admin/drain", {"session_timeout": "10m"})
    assert (status, body["in_flight"], body["queued"]) == (200, 0, 0)
    ready = machine.call("GET", "/readyz")
    assert (ready[0], ready[1]["reason"]) == (503, "Drained")
    assert ask(machine, "ada") == (200, "")
    assert ask(machine, "eve") == (503, "overloaded")
    assert ask(machine, None) == (503, "overloaded")
    assert machine.call("POST", "/admin/warmup")[0] == 200  # the operator's own requests run
    machine.stop()
    machine.up(wait=False)  # a drain survives a restart; what is known does not
    machine.until(lambda s: s["models"]["demo"]["state"] == "ready")
    assert ask(machine, "eve") == (503, "overloaded")
    ended = lmx(machine, "drain", "--end")
    assert (ended.returncode, ended.stdout) == (0, "new sessions are taken again\n")
    assert machine.call("GET", "/readyz")[0] == 200
    assert ask(machine, "eve") == (200, "")


def test_drain_waits_for_what_is_in_flight(machine: Machine) -> None:
    machine.up()

    async def scene() -> tuple[Answer, subprocess.CompletedProcess[str]]:
        started = asyncio.Event()
        body = {**LONG, "max_tokens": 3000, "ignore_eos": True}
        running = asyncio.create_task(post(machine.port, CHAT, body, started=started))
        await started.wait()
        drained = await asyncio.to_thread(lmx, machine, "drain", "--session-timeout", "0s")
        assert running.done()
        return await running, drained

    answer, drained = asyncio.run(scene())
    assert answer.failure is None
    assert (drained.returncode, drained.stdout) == (0, "drained: nothing is in flight\n")
    assert "lmx drain --end" in drained.stderr
    cleared = machine.call("DELETE", "/admin/override")  # of whatever kind
    assert cleared == (200, {"success": True, "cleared": 1})
    machine.until(lambda s: s["summary"] == "Ready")


def test_waiting_over_http_and_what_cannot_be(machine: Machine) -> None:
    machine.up()
    status, body = machine.call("POST", "/admin/drain", {"session_timeout": 0, "wait": True})
    assert (status, body["in_flight"]) == (200, 0)
    for wrong in ({"session_timeout": "soon"}, {"session_timeout": -1}, {"wait": 1}, {"timeout": "1s"}):
        assert machine.call("POST", "/admin/drain", wrong)[0] == 400
    spec = machine.spec()
    machine.call("DELETE", "/admin/drain")
    machine.write({**spec, "server": {**spec["server"], "overrides": "deny"}})
    machine.until_synced()
    for method in ("POST", "DELETE"):
        status, body = machine.call(method, "/admin/drain")
        assert (status, body["error"]["code"]) == (403, "managed_by_file")


def test_a_warmup_pages_a_model_in_and_tells_the_times(machine: Machine) -> None:
    spec = machine.spec()
    spec["models"]["mini"] |= {"residency": "on_demand", "concurrency": 3}
    machine.up(spec)
    status, body = machine.call("POST", "/admin/warmup", {"model": "mini"})
    assert status == 200, body
    assert body["model"] == "mini"
    assert [run["rows"] for run in body["runs"]] == [1, 2]
    assert all(0 < run["ttft_ms"] <= run["ms"] for run in body["runs"])
    assert body["first_answer_ms"] > 0
    assert machine.status()["models"]["mini"]["state"] == "ready"
    told = lmx(machine, "warmup", "-o", "json")
    assert told.returncode == 0, told.stderr
    assert [run["rows"] for run in json.loads(told.stdout)["runs"]] == [1, 2, 4, 8]
    assert "demo is warm" in lmx(machine, "warmup", "demo").stdout
    refused = lmx(machine, "warmup", "nobody")
    assert (refused.returncode, "model_not_found" in refused.stderr) == (1, True)
