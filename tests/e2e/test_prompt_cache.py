"""No prompt is computed twice: after a swap, after kill -9, in a named conversation; and only for who may."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from appliance.hub import files
from reconciler.loader import load_text
from reconciler.sizing import size_of
from tests.e2e.machine import Machine
from tests.engine.models import QWEN3, write

RULES = " ".join(f"Rule {number}: be kind to number {number}." for number in range(60))
MIB = 2**20
SPARE = (2 * 32 + 8) * MIB  # room to copy a batch in both engines, and a little more
OWN_STEP = 40 * MIB  # the parent is reckoned with a little more than it takes
# 64 KiB of keys and values for each token: a few prompts fill a cache.
HEAVY = {**QWEN3, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 256}
BILLING = "x-anthropic-billing-header: cc_version=2.1.37; cch={};\n"


def ask(machine: Machine, text: str, *, system: str = RULES, **fields: Any) -> int:
    """How many prompt tokens were found; fails the test on any error."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    body = {"messages": messages, "max_tokens": 4, **fields}
    status, answer = machine.call("POST", "/v1/chat/completions", body)
    assert status == 200, answer
    usage = answer["usage"]
    assert usage["prompt_tokens"] > usage["prompt_tokens_details"]["cached_tokens"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def lmx(machine: Machine, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "appliance.cli", *words, "-f", str(machine.file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=machine.folder.parent)


def metric(machine: Machine, name: str) -> float:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{machine.port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.rsplit(" ", 1)[1] for line in lines if line.startswith(name)))


def warmed(machine: Machine) -> dict[str, Any]:
    spec = machine.spec(warmup_templates={"agent": {"messages": [{"role": "system", "content": RULES}]}})
    for model in spec["models"].values():
        model["warmup"] = ["agent"]
    return spec


def test_the_first_request_after_a_swap_finds_its_system_prompt(machine: Machine) -> None:
    spec = warmed(machine)
    machine.up(spec)
    assert ask(machine, "hello") > 300
    machine.write({**spec, "active": "mini"})
    machine.until_synced("mini")
    assert ask(machine, "hello") > 300
    found = machine.until(lambda s: s["models"]["mini"]["cache"]["memory"]["hits"] == 1)
    assert found["models"]["mini"]["memory"]["cached_bytes"] > 0
    assert metric(machine, 'lmx_prompt_cache_hits_total{tier="memory"}') == 2  # one of each engine
    assert "from memory" in lmx(machine, "explain", "mini").stdout
    assert machine.condition("CacheReady")["reason"] == "Working"


def test_a_template_that_cannot_be_read_does_not_keep_the_model_from_serving(machine: Machine) -> None:
    long = {"messages": [{"role": "user", "content": RULES * 100}]}
    spec = {**warmed(machine), "active": "mini"}
    spec["warmup_templates"]["long"] = long
    spec["models"]["mini"]["warmup"] = ["long", "agent"]
    machine.up(spec)
    assert ask(machine, "hello") > 300
    (event,) = [e for e in machine.status()["events"] if e["type"] == "WarmupFailed"]
    assert event["data"]["template"] == "long"
    assert "ceiling" in event["message"]
    again = json.loads(lmx(machine, "warmup", "-o", "json").stdout)["templates"]
    assert [one["name"] for one in again] == ["long", "agent"]
    assert "ceiling" in again[0]["error"]
    assert again[1]["cached_tokens"] > 300


def test_a_follow_up_after_kill_9_comes_from_the_disk(machine: Machine) -> None:
    machine.up()
    assert ask(machine, "hello") == 0
    machine.until(lambda s: s["models"]["demo"]["cache"]["disk"]["bytes"] > 0)
    folder = Path(machine.folder, ".lmx", "cache")
    files = list(folder.rglob("*.safetensors"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    engines = machine.engines()
    machine.kill()
    for engine in engines:
        engine.wait(60)
    machine.up()
    assert ask(machine, "hello") >= 256
    machine.until(lambda s: s["models"]["demo"]["cache"]["disk"]["hits"] == 1)


def test_a_changing_line_does_not_spoil_the_prompt_behind_it(machine: Machine) -> None:
    machine.up()
    assert ask(machine, "hello", system=BILLING.format("fa690") + RULES) == 0
    assert ask(machine, "hello", system=BILLING.format("0b1c2") + RULES) > 300
    assert ask(machine, "hello") > 300

    def lines() -> list[Any]:
        whole = machine.log.read_text().split("\n")[:-1]
        return [json.loads(line) for line in whole if '"lmx.requests"' in line]

    machine.until(lambda _: len(lines()) == 3)  # another thread writes them
    told = lines()
    assert [line.get("left_out") for line in told] == ["x-anthropic-billing-header"] * 2 + [None]
    assert [line.get("cached_from") for line in told] == [None, "memory", "memory"]
    assert "fa690" not in machine.log.read_text()


def test_sessions_are_listed_and_dropped_where_they_are(machine: Machine) -> None:
    spec = machine.spec()
    machine.up(spec)
    ask(machine, "hello", prompt_cache_key="talk one", user="ann")
    ask(machine, "bye", user="ann")
    (session,) = machine.call("GET", "/admin/sessions")[1]["sessions"]
    assert (session["name"], session["model"], session["key"], session["loaded"]) == (
        "talk one", "demo", None, True,
    )  # fmt: skip
    assert session["tokens"] > 300
    assert "talk one" in lmx(machine, "sessions", "list").stdout
    machine.write({**spec, "active": "mini"})
    machine.until_synced("mini")
    machine.until_engines(1)
    (session,) = machine.call("GET", "/admin/sessions")[1]["sessions"]
    assert (session["name"], session["model"], session["loaded"]) == ("talk one", "demo", False)
    assert session["disk_bytes"] > 0
    ask(machine, "hello", prompt_cache_key="talk two")
    assert lmx(machine, "sessions", "drop", "talk one").returncode == 0
    (session,) = machine.call("GET", "/admin/sessions")[1]["sessions"]
    assert (session["name"], session["model"]) == ("talk two", "mini")
    assert "1 session forgotten" in lmx(machine, "sessions", "drop", "--all").stdout
    assert machine.call("GET", "/admin/sessions")[1]["sessions"] == []


def test_no_key_finds_what_another_has_cached(machine: Machine) -> None:
    machine.up(machine.spec(cache={"share": "key"}))

    def asked_by(key: str | None) -> int:
        machine.headers = {"Authorization": f"Bearer {key}"} if key else {}
        return ask(machine, "hello")

    assert asked_by("sk-one") == 0
    assert asked_by("sk-two") == 0
    assert asked_by(None) == 0
    assert asked_by("sk-one") > 300
    assert stat.S_IMODE(Path(machine.folder, "state", "secret").stat().st_mode) == 0o600
    for path in Path(machine.folder, ".lmx", "cache").rglob("*"):
        assert path.is_dir() or b"sk-one" not in path.read_bytes()
    assert "sk-one" not in machine.log.read_text()
    engines = machine.engines()
    machine.kill()
    for engine in engines:
        engine.wait(60)
    machine.up(machine.spec(cache={"share": "key"}))
    assert asked_by("sk-two") >= 256  # its name is the same after a restart
    assert asked_by(None) >= 256


def test_a_folder_that_cannot_be_used_is_told_and_keeps_nothing_from_being_served(machine: Machine) -> None:
    machine.folder.joinpath("taken").write_text("a file")
    machine.up(machine.spec(cache={"path": "./taken/cache"}))
    found = machine.until(
        lambda s: next(c for c in s["conditions"] if c["type"] == "CacheReady")["status"] == "False"
    )
    assert found["summary"] == "Ready"
    assert "taken" in machine.condition("CacheReady")["message"]
    assert ask(machine, "hello") == 0
    assert ask(machine, "hello") > 300  # memory needs no folder


def floor_of(machine: Machine, name: str) -> int:
    """What a model needs at the least, by the forecast."""
    loaded = load_text(machine.file.read_bytes(), path=machine.file, env={}).spec
    model = loaded.models[name]
    return size_of(model, files.find(model.source, None, None, machine.folder), loaded).at_floor


def test_a_model_that_fits_beside_an_empty_cache_comes_beside_a_full_one(machine: Machine) -> None:
    """What the old engine uses and the new one needs is more than there is; but the cache is only lent."""
    spec = machine.spec(cache={"memory": "100%"})
    heavy = {"source": str(write(machine.folder / "heavy", HEAVY)), "context": 2048, "concurrency": 2}
    spec["models"]["demo"] = heavy
    machine.up(spec)
    at_rest = machine.status()
    own = at_rest["memory"]["used_bytes"] - at_rest["models"]["demo"]["memory"]["measured_bytes"]
    newcomer = floor_of(machine, "mini")
    room = floor_of(machine, "demo") + newcomer + SPARE
    spec["memory"] = {"budget": f"{int((room + own + OWN_STEP) / 0.85 / MIB)}MiB"}
    machine.write(spec)
    machine.until_synced("demo")
    for number in range(20):
        ask(machine, "hello", system=f"Talk {number}. " + RULES)
        used = machine.until(lambda s: s["models"]["demo"]["memory"]["cached_bytes"] > 0)
        measured = used["models"]["demo"]["memory"]["measured_bytes"]
        if measured + newcomer > room + OWN_STEP:
            break
    assert measured + newcomer > room + OWN_STEP, used["models"]["demo"]
    machine.write({**spec, "active": "mini"})
    machine.until_synced("mini")
    events = machine.status()["events"]
    drained = [e for e in events if e["type"] == "Action" and e["data"]["action"] == "drain"]
    assert [e["data"]["mark"] for e in drained] == ["+/-"]
    assert not [e for e in events if e["type"] == "StepTaken"]
