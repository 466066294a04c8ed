"""`lmx try`, `confirm`, `rollback`, `suspend` and `config` as a user runs them, on a real appliance."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.cli.__main__ import main
from tests.e2e.http_stream import post
from tests.e2e.machine import MINI, Machine

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Two models that are quick to load, and both loaded: most tests need no new engine."""
    made = Machine(tmp_path_factory.mktemp("trying"))
    spec = made.spec()
    spec["models"]["demo"] |= {"source": str(MINI), "residency": "loaded"}
    spec["models"]["mini"]["residency"] = "loaded"
    made.env = {"LMX_HIDDEN": "what-nobody-may-see"}
    made.spec = lambda **changes: {**copy.deepcopy(spec), **changes}  # type: ignore[method-assign]
    made.up()
    yield made
    made.close()


@pytest.fixture
def up(machine: Machine) -> Iterator[Machine]:
    """As the module found it: the usual file, nothing over it."""
    yield machine
    machine.call("DELETE", "/admin/override")
    machine.write(machine.spec())
    machine.until_synced("demo")


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def lmx(machine: Machine, *words: str) -> Done:
    """The verb in this process, which spares a start of Python each time."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(machine.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*words, "-f", str(machine.file)])
    return Done(code, out.getvalue(), err.getvalue())


def wanted(machine: Machine, name: str = "new.yaml", **changes: Any) -> str:
    (machine.folder / name).write_text(yaml.safe_dump(machine.spec(**changes), sort_keys=False))
    return name


def patched(machine: Machine, diff: str) -> str:
    """The file after the edit that was printed, as `patch` makes it of a copy."""
    made = machine.folder / "patched.yaml"
    made.write_bytes(machine.file.read_bytes())
    done = subprocess.run(["patch", str(made)], input=diff, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return made.read_text()


def test_a_try_swaps_under_a_stream_and_comes_back_by_itself_without_a_failed_request(up: Machine) -> None:
    failures: list[Any] = []
    models: set[str] = set()
    over = threading.Event()

    async def ask() -> None:
        body = {"messages": [{"role": "user", "content": "Count"}], "stream": True, "max_tokens": 40}
        while not over.is_set():
            answer = await post(up.port, CHAT, body)
            failures.extend(filter(None, [answer.failure]))
            models.update(chunk["model"] for chunk in answer.events if chunk.get("model"))

    async def all_of_them() -> None:
        await asyncio.gather(*(ask() for _ in range(3)))

    on_disk = copy.deepcopy(up.spec()["models"])
    for model in on_disk.values():
        model["residency"] = "disk"
    up.write(up.spec(models=on_disk))
    up.until_synced("demo")
    up.until_engines(1)
    before = up.status()["generation"]
    load = threading.Thread(target=lambda: asyncio.run(all_of_them()))
    load.start()
    try:
        begun = lmx(up, "try", wanted(up, active="mini", models=on_disk), "--for", "60s")
        assert begun.returncode == 0, begun.stderr
        assert begun.stdout.startswith("in force until ")
        assert "active: demo -> mini" in begun.stdout
        status = up.status()
        assert status["active"] == {"desired": "mini", "actual": "mini"}
        assert status["generation"] == before
        assert status["try"]["reached"] is True
        assert 0 < status["try"]["left_s"] <= 60
        assert up.condition("Synced")["reason"] == "Trying"
        assert "left, by " in lmx(up, "status").stdout
        assert "the file; a try is in force" in lmx(up, "history").stdout
        same = lmx(up, "diff")
        assert (same.returncode, "active" in same.stdout, "a try by" in same.stderr) == (2, True, True)
        assert lmx(up, "wait", "--for", "Synced", "--timeout", "0s").returncode == 3
        again = lmx(up, "try", "new.yaml", "--for", "1s", "--no-wait")
        assert again.returncode == 1
        assert "in force already" in again.stderr
        text = (up.folder / wanted(up, active="mini", queue={"depth": 9}, models=on_disk)).read_text()
        assert up.call("POST", "/admin/try", {"spec": text, "for": "1s"})[0] == 200
        up.until(lambda s: s["try"] is None and s["active"]["actual"] == "demo" and s["summary"] == "Ready")
    finally:
        over.set()
        load.join()
    assert failures == []
    assert models == {"demo", "mini"}
    kinds = [e["type"] for e in up.status()["events"]]
    assert kinds.count("TryBegan") == 2
    assert kinds.count("TryEnded") == 1
    assert up.condition("Synced")["status"] == "True"


def test_confirmed_it_stays_and_the_printed_edit_makes_the_file_say_so(up: Machine) -> None:
    nothing = lmx(up, "confirm")
    assert (nothing.returncode, "nothing to confirm" in nothing.stderr) == (1, True)
    assert lmx(up, "try", wanted(up, active="mini"), "--for", "60s").returncode == 0
    kept = lmx(up, "confirm")
    assert kept.returncode == 0, kept.stderr
    assert up.status()["try"]["until"] is None
    engine = up.status()["models"]["mini"]["pid"]
    up.write(patched(up, kept.stdout))
    up.until_synced("mini")
    assert up.status()["try"] is None
    assert up.status()["models"]["mini"]["pid"] == engine
    assert up.status()["overrides"] == []


def test_an_edit_of_the_file_and_end_take_it_away(up: Machine) -> None:
    assert lmx(up, "try", wanted(up, active="mini")).returncode == 0
    up.write(up.spec(queue={"depth": 7}))
    up.until_synced("demo")
    ended = up.call("GET", "/admin/try")[1]
    assert (ended["try"], ended["ended"]["why"]) == (None, "the file has changed")
    assert lmx(up, "try", wanted(up, active="mini")).returncode == 0
    assert lmx(up, "try", "--end").stdout == "the file is what is asked for again\n"
    up.until(lambda s: s["active"]["actual"] == "demo" and s["try"] is None)
    assert lmx(up, "try", "--end").stdout == "nothing was tried\n"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a new source": ({"models": {"demo": {"source": "org/new"}}}, "models.demo.source: org/new is not named"),
    "a local path": ({"models": {"demo": {"source": "/etc"}}}, "models.demo.source: /etc is not named"),
    "an adapter": ({"models": {"demo": {"adapter": "./x"}}}, "models.demo.adapter: ./x is not named"),
    "a template": (
        {"models": {"demo": {"template": {"file": "/etc/passwd"}}}},
        "models.demo.template.file: /etc/passwd is not named",
    ),
    "code": (
        {"models": {"demo": {"trust_remote_code": True}}},
        "models.demo.trust_remote_code: the file does not let",
    ),
    "a port": ({"server": {"port": 1}}, "server.port: "),
    "who may call": ({"server": {"admin": "off"}}, "server.admin: loopback -> off"),
    "a key file": ({"server": {"api_keys": {"file": "./keys"}}}, "server.api_keys"),
    "state": ({"state": {"path": "./elsewhere"}}, "state.path: "),
    "a skill": ({"skills": {"x": {"python": "os:system"}}}, "skills.x: "),
    "suspend": ({"suspend": True}, "suspend: false -> true"),
    "a reference": ({"models": {"demo": {"aliases": ["${LMX_HIDDEN}"]}}}, "${LMX_HIDDEN}"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_only_the_file_may_say_is_refused_by_name_and_nothing_is_touched(up: Machine, name: str) -> None:
    change, words = REFUSED[name]
    spec = up.spec()
    for key, value in change.items():
        if key == "models":
            spec["models"]["demo"] |= value["demo"]
        else:
            spec[key] = {**spec.get(key, {}), **value} if isinstance(value, dict) else value
    before = up.status()["events"][-1]["id"]
    status, body = up.call("POST", "/admin/try", {"spec": yaml.safe_dump(spec)})
    assert status in (400, 403), body
    assert words in body["error"]["message"]
    assert "what-nobody-may-see" not in body["error"]["message"]
    assert up.status()["try"] is None
    assert [e for e in up.status()["events"] if e["id"] > before and e["type"] == "TryBegan"] == []


def test_a_broken_file_is_told_by_line_and_what_cannot_fit_before_anything_moves(up: Machine) -> None:
    broken = up.folder / "broken.yaml"
    broken.write_text("version: 1\nactive: demo\nmodels: {demo: {sorce: x}}\n")
    refused = lmx(up, "try", "broken.yaml")
    assert refused.returncode == 1
    assert "broken.yaml:3:17: models.demo.sorce: unknown key (did you mean 'source'?)" in refused.stderr
    pids = {name: model["pid"] for name, model in up.status()["models"].items()}
    tight = lmx(up, "try", wanted(up, active="mini", memory={"budget": "64MiB"}))
    assert tight.returncode == 1
    assert "insufficient_memory" in tight.stderr
    assert {name: model["pid"] for name, model in up.status()["models"].items()} == pids
    assert up.status()["active"]["actual"] == "demo"
    assert up.condition("MemoryPressure")["status"] == "False"
    assert "is a folder" in lmx(up, "try", ".").stderr
    assert "there is no nowhere.yaml" in lmx(up, "try", "nowhere.yaml").stderr
    assert "name the file to try" in lmx(up, "try").stderr


def test_what_a_tried_file_leaves_out_of_the_files_own_matters_stays_and_is_told(up: Machine) -> None:
    (up.folder / "part.yaml").write_text(
        yaml.safe_dump({"version": 1, "active": "mini", "models": up.spec()["models"]})
    )
    begun = lmx(up, "try", "part.yaml", "--for", "60s")
    assert begun.returncode == 0, begun.stderr
    assert "they stay as LMX's file has them: server.host, server.port, state.path" in begun.stderr
    assert up.status()["active"]["actual"] == "mini"


def test_rollback_takes_effect_as_a_try_and_its_edit_takes_the_file_back(up: Machine) -> None:
    good = up.file.read_text()
    spec = up.spec(active="mini")
    spec["models"]["mini"]["source"] = str(up.folder / "nowhere")
    up.write(spec)
    up.until(lambda s: s["summary"] == "Stalled")
    edit = lmx(up, "rollback", "--dry-run")
    assert edit.returncode == 0, edit.stderr
    assert up.status()["try"] is None
    assert yaml.safe_load(patched(up, edit.stdout)) == yaml.safe_load(good)
    done = lmx(up, "rollback", "--for", "60s")
    assert done.returncode == 0, done.stderr
    assert done.stdout == edit.stdout
    status = up.until(lambda s: s["summary"] == "Ready")
    assert status["try"]["what"].startswith("a rollback to generation ")
    assert status["active"] == {"desired": "demo", "actual": "demo"}
    up.write(patched(up, done.stdout))
    up.until_synced("demo")
    assert up.status()["try"] is None


def test_rollback_says_when_there_is_nothing_and_what_only_the_file_takes_back(up: Machine) -> None:
    nothing = lmx(up, "rollback")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert "nothing to roll back" in nothing.stderr
    assert "lmx history" in nothing.stderr
    assert "there is no generation 999" in lmx(up, "rollback", "999").stderr
    before = up.status()["generation"]
    spec = up.spec(active="mini")
    spec["server"]["max_body"] = "8MiB"
    up.write(spec)
    up.until_synced("mini")
    done = lmx(up, "rollback", str(before), "--for", "60s")
    assert done.returncode == 0, done.stderr
    assert "only the edit takes these back, a try does not: server.max_body" in done.stderr
    assert up.status()["active"]["actual"] == "demo"
    assert up.call("GET", "/admin/config")[1]["spec"]["server"]["max_body"] == "8MiB"
    # A file that is refused: what runs is the last-known-good already.
    up.write({**spec, "queue": {"depth": "many"}})
    up.until(lambda s: s["summary"] == "Stalled")
    up.call("DELETE", "/admin/try")
    told = lmx(up, "rollback")
    assert told.returncode == 0, told.stderr
    assert "is what runs already" in told.stderr
    assert yaml.safe_load(patched(up, told.stdout)) == spec


def test_suspended_nothing_changes_and_resume_follows_the_newest_content(up: Machine) -> None:
    done = lmx(up, "suspend")
    assert done.returncode == 0, done.stderr
    assert up.status()["summary"] == "Suspended"
    up.write(up.spec(active="mini"))
    status = up.until(
        lambda s: any(c["type"] == "Synced" and c["reason"] == "Suspended" for c in s["conditions"])
    )
    assert status["active"]["actual"] == "demo"
    waited = lmx(up, "wait", "--digest", "file", "--timeout", "1s")
    assert waited.returncode == 3
    assert "lmx resume" in waited.stderr
    assert "waits: suspended" in lmx(up, "history").stdout
    refused = lmx(up, "try", wanted(up, queue={"depth": 9}))
    assert (refused.returncode, "`lmx resume` ends that" in refused.stderr) == (1, True)
    up.stop()
    up.up(wait=False)
    status = up.until(lambda s: s["summary"] == "Suspended" and s["active"]["actual"] == "demo")
    (held,) = status["overrides"]
    assert (held["kind"], "@" in held["by"]) == ("suspend", True)
    assert lmx(up, "resume").stdout == "resumed: the file is followed again\n"
    up.until_synced("mini")
    assert "not suspended" in lmx(up, "resume").stdout


def test_config_tells_where_each_value_comes_from(up: Machine) -> None:
    assert lmx(up, "try", wanted(up, active="mini", queue={"depth": 9})).returncode == 0
    shown = lmx(up, "config").stdout.splitlines()
    lines = {line.split(":")[0].strip(): line for line in shown}
    assert shown[0].startswith("# generation ")
    assert shown[0].endswith("with a tried spec over it")
    assert "# tried, " in lines["active"]
    assert "# tried, " in lines["depth"]
    assert f"# lmx.yaml:{1 + up.file.read_text().splitlines().index(f'  port: {up.port}')}:3" in lines["port"]
    assert lines["overrides"].endswith("# default")
    assert "in force: 8192, " in "\n".join(line for line in shown if "context: auto" in line)
    answer = json.loads(
        lmx(up, "config", "--effective", "--url", f"127.0.0.1:{up.port}", "-o", "json").stdout
    )
    assert answer["origins"]["queue.depth"]["kind"] == "try"
    assert answer["origins"]["server.port"]["line"] > 0
    assert answer["in_force"]["tried"] is True
    own = json.loads(lmx(up, "config", "--effective", "-o", "json").stdout)
    assert own["spec"]["active"] == "demo"
    assert own["origins"]["active"] == {"kind": "file", "file": str(up.file), "line": 2, "column": 1}


def test_a_machine_that_changes_by_its_file_only_refuses_all_of_it(up: Machine) -> None:
    spec = up.spec()
    assert lmx(up, "try", wanted(up, active="mini"), "--for", "60s").returncode == 0
    spec["server"]["overrides"] = "deny"
    up.write(spec)
    up.until_synced("demo")
    path = Path(wanted(up, active="mini")).name
    for words in (("try", path), ("confirm",), ("rollback", "1"), ("suspend",), ("resume",)):
        done = lmx(up, *words)
        assert done.returncode == 1, words
        assert "managed_by_file" in done.stderr, words
    assert lmx(up, "rollback", "1", "--dry-run").returncode in (0, 1)
