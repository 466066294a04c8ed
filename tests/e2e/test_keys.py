"""API keys on a real appliance: hot edits of their file, and secrets that appear nowhere."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.e2e.machine import LIMIT_S, ROOT, Machine

ADMIN, CI, NEXT, WRONG = (f"sk-{word}-7f3a9c51e8d24b60" for word in ("admin", "ci", "next", "wrong"))
PROMPT = "planted-secret-prompt-4711"
SPEC_SECRET = "planted-secret-value-0815"


def write(file: Path, text: str, mode: int = 0o600) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.chmod(mode)
    os.replace(new, file)


def keys(*lines: str) -> str:
    return "\n".join(lines) + "\n"


BOTH = keys(
    f"operator: {{key: {ADMIN}, admin: true}}",
    f"ci: {{key: {CI}, requests_per_minute: 30, models: [demo]}}",
)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("keyed")
    machine = Machine(folder)
    write(folder / "keys", BOTH)
    machine.headers = {"Authorization": f"Bearer {ADMIN}"}
    machine.env = {"LMX_NAME": SPEC_SECRET}
    server = {
        "host": "127.0.0.1",
        "port": machine.port,
        "api_keys": {"file": "keys"},
        "admin": "key",
        "cors": ["https://chat.example"],
    }
    machine.up(machine.spec(server=server))
    yield machine
    machine.close()


def as_(machine: Machine, key: str | None) -> Callable[..., tuple[int, Any]]:
    def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        before, machine.headers = machine.headers, {"x-api-key": key} if key else {}
        try:
            return machine.call(method, path, body)
        finally:
            machine.headers = before

    return call


def lmx(machine: Machine, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance.cli", *words, "-f", str(machine.file)],
        cwd=machine.folder, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(machine.folder), **env},
    )  # fmt: skip


def test_each_key_may_what_it_may(keyed: Machine) -> None:
    ask = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 3}
    nobody, ci = as_(keyed, None), as_(keyed, CI)
    assert nobody("GET", "/healthz")[0] == 200
    assert nobody("GET", "/status")[0] == 401
    assert as_(keyed, WRONG)("GET", "/status")[0] == 401
    assert ci("POST", "/v1/chat/completions", ask)[0] == 200
    assert ci("POST", "/v1/chat/completions", {**ask, "model": "mini"})[0] == 403
    assert [model["id"] for model in ci("GET", "/v1/models")[1]["data"]] == ["demo"]
    assert ci("POST", "/admin/reconcile", {})[0] == 403
    assert keyed.call("POST", "/admin/reconcile", {})[0] == 200
    assert keyed.condition("KeysReady")["status"] == "True"


def test_the_operators_own_verbs_find_a_key(keyed: Machine) -> None:
    assert lmx(keyed, "status").returncode == 0
    assert lmx(keyed, "reconcile").returncode == 0
    refused = lmx(keyed, "status", LMX_API_KEY=WRONG)
    assert refused.returncode == 1
    assert "LMX_API_KEY" in refused.stderr
    assert WRONG not in refused.stderr


def test_a_key_file_is_edited_while_all_goes_on(keyed: Machine) -> None:
    file = keyed.folder / "keys"
    pid = keyed.engines()[0].pid
    write(file, keys(f"operator: {{key: {ADMIN}, admin: true}}", f"ci: {{key: {NEXT}}}"))
    keyed.until(lambda _: as_(keyed, NEXT)("GET", "/v1/models")[0] == 200)
    assert as_(keyed, CI)("GET", "/v1/models")[0] == 401
    write(file, f"ci: {{key: {CI}")
    broken = keyed.until(lambda s: not s_is(s, "KeysReady"))
    message = next(c["message"] for c in broken["conditions"] if c["type"] == "KeysReady")
    assert "line" in message
    assert not s_is(broken, "Synced")
    assert as_(keyed, NEXT)("GET", "/v1/models")[0] == 200
    write(file, BOTH, 0o644)
    keyed.until(lambda s: any("chmod 600" in c["message"] for c in s["conditions"]))
    assert as_(keyed, CI)("GET", "/v1/models")[0] == 401
    write(file, BOTH)
    keyed.until(lambda s: s_is(s, "KeysReady") and s_is(s, "Synced"))
    assert as_(keyed, CI)("GET", "/v1/models")[0] == 200
    assert keyed.engines()[0].pid == pid
    told = [event for event in keyed.status()["events"] if event["type"] == "Keys"]
    assert told


def s_is(status: dict[str, Any], kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in status["conditions"])


async def _on_a_socket(machine: Machine) -> list[str]:
    url, seen = f"ws://127.0.0.1:{machine.port}/v1/ws", list[str]()
    async with connect(url, additional_headers={"x-api-key": CI}, proxy=None) as line:
        await line.send(
            json.dumps({"id": "a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2})
        )
        while not seen or '"type":"done"' not in seen[-1]:
            seen.append(str(await asyncio.wait_for(line.recv(), LIMIT_S)))
        await line.send(json.dumps({"id": "b", "nonsense": PROMPT, "messages": []}))
        seen.append(str(await asyncio.wait_for(line.recv(), LIMIT_S)))
    return seen


def test_no_secret_appears_in_anything_that_is_shown_or_written(keyed: Machine) -> None:
    """After all of the above: every route, the log, the state folder, processes and their environments."""
    shown = list[str]()
    for path in ("/status", "/metrics", "/admin/config", "/admin/plan", "/admin/models", "/v1/models", "/"):
        request = urllib.request.Request(f"http://127.0.0.1:{keyed.port}{path}", headers=keyed.headers)
        try:
            with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
                shown += [answer.read().decode(), str(answer.headers)]
        except urllib.error.HTTPError as error:
            shown += [error.read().decode(), str(error.headers)]
    for key in (WRONG, None):
        for method, path in (
            ("GET", f"/nothing/{WRONG}x"),
            ("GET", "/status"),
            ("POST", "/v1/chat/completions"),
        ):
            shown.append(json.dumps(as_(keyed, key)(method, path)[1]).replace(f"{WRONG}x", ""))
    shown += asyncio.run(_on_a_socket(keyed))
    shown.append(json.dumps(as_(keyed, CI)("POST", "/v1/chat/completions", {"messages": PROMPT})[1]))
    for verb in ("status", "plan", "history", "validate", "config"):
        done = lmx(keyed, verb)
        shown += [done.stdout, done.stderr]
    shown.append(keyed.log.read_text())
    for file in (keyed.folder / "state").rglob("*"):
        if file.is_file():
            shown.append(file.read_bytes().decode("latin-1"))
    assert keyed.process is not None
    for engine in keyed.engines():
        shown += [" ".join(engine.cmdline()), json.dumps(engine.environ())]
    shown.append(json.dumps(keyed.process.args))
    text = "\n".join(shown)
    assert 'lmx_key_requests_total{key="ci",outcome="begun"}' in text  # names are no secrets
    assert '"key":"ci"' in keyed.log.read_text()
    for secret in (ADMIN, CI, NEXT, WRONG):
        assert secret not in text
        assert secret.encode().hex() not in text
    assert PROMPT not in keyed.log.read_text()
    assert SPEC_SECRET not in text


HOSTILE = [
    "../../etc/passwd", "/etc/passwd", "./models/demo", "..", "~", "~/.lmx", "file:///etc/passwd",
    "builtin:lmx-demo", "mlx-community/Qwen3-30B-A3B-4bit", "hf.co/a/b", "https://evil.example/x",
    "demo/../mini", "demo\x00", "DEMO", "demo ", "", "%2e%2e/demo", "a" * 10_000, "${LMX_NAME}", "demo;ls",
    "\u202edemo",
]  # fmt: skip


def test_only_what_the_file_names_is_reached_by_whatever_name(keyed: Machine) -> None:
    """On every route that takes a model's name; nothing is opened, fetched or started for it."""
    source = str(keyed.file.read_text())
    declared = str(ROOT / "examples" / "models" / "lmx-demo")
    assert declared in source
    beside = [f"{declared}/", f"{declared}/.", f"{declared}/../lmx-demo-mini", str(ROOT / "examples")]
    routes: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}),
        ("/v1/completions", {"prompt": "x", "max_tokens": 1}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 16}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/rerank", {"query": "x", "documents": ["y"]}),
    ]
    # The very words of the file mean the model of the file, and only they do.
    status, answer = keyed.call("POST", routes[0][0], {**routes[0][1], "model": declared})
    assert (status, answer["model"]) == (200, "demo")
    before = {engine.pid for engine in keyed.engines()}
    for path, body in routes:
        for name in [*HOSTILE, *beside]:
            status, answer = keyed.call("POST", path, {**body, "model": name})
            unnamed = (200,) if name == "" else ()  # means the active model
            assert status in (400, 404, *unnamed), (path, name, answer)
            assert "root:" not in json.dumps(answer)
    for path in ("/admin/models/unload", "/admin/warmup", "/admin/models/pull"):
        for name in [*HOSTILE, *beside]:
            if name:
                status, answer = keyed.call("POST", path, {"model": name})
                assert status in (400, 404), (path, name, answer)
    assert {engine.pid for engine in keyed.engines()} == before
    assert {name for name, model in keyed.status()["models"].items() if model["state"] == "ready"} == {"demo"}
