"""A bad edit costs nothing: what worked goes on working, and status says why the edit does not."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.machine import DEMO, MINI, Machine


@pytest.fixture
def up(machine: Machine) -> Machine:
    return machine.up()


def _refused(machine: Machine, reason: str) -> dict[str, Any]:
    """The edit is seen and not in force; the old model still answers. The Synced condition."""
    status = machine.until(
        lambda s: (
            any(
                c["type"] == "Synced" and c["status"] == "False" and c["reason"] == reason
                for c in s["conditions"]
            )
            and s["summary"] == "Stalled"
        )
    )
    assert status["active"]["actual"] == "demo"
    assert machine.answer("Who are you?")
    assert machine.call("GET", "/readyz")[1] == {"ready": True, "model": "demo"}
    return machine.condition("Synced")


BROKEN_FILES: dict[str, tuple[str | bytes, str]] = {
    "wrong yaml": ("version: 1\nactive: [\n", "lmx.yaml:3:1"),
    "a list": ("- version: 1\n", "found a list"),
    "unknown key": ("version: 1\nactive: null\nmodels: {}\nactiv: demo\n", "active"),
    "duplicate key": ("version: 1\nactive: null\nactive: demo\nmodels: {}\n", "active"),
    "wrong type": ("version: 1\nactive: null\nmodels: {}\nserver: {port: high}\n", "server.port"),
    "no unit": ("version: 1\nactive: null\nmodels: {}\nqueue: {timeout: 60}\n", "queue.timeout"),
    "active unknown": ("version: 1\nactive: nobody\nmodels: {}\n", "no such model"),
    "not utf-8": (b"version: 1\nname: \xff\xfe\n", "UTF-8"),
    "emptied": ("", "empty"),
    "not supported yet": (
        "version: 1\nactive: null\nmodels: {a: {source: org/a, draft: {source: org/b}}}\n",
        "not supported yet",
    ),
    "unset variable": ("version: 1\nactive: null\nmodels: {}\nname: ${LMX_NOT_SET}\n", "LMX_NOT_SET"),
}


def test_every_broken_file_is_refused_with_a_reason_and_the_good_state_serves(up: Machine) -> None:
    good = up.file.read_bytes()
    for name, (text, hint) in BROKEN_FILES.items():
        up.write(text)
        message = _refused(up, "SpecRejected")["message"]
        assert hint.lower() in message.lower(), name
        up.write(good)
        up.until_synced("demo")
    assert up.status()["generation"] == 1


def test_a_file_that_is_gone_or_unreadable_is_refused_and_the_good_state_serves(up: Machine) -> None:
    good = up.file.read_bytes()
    up.file.unlink()
    assert "lmx.yaml" in _refused(up, "SpecRejected")["message"]
    up.file.mkdir()
    up.until(lambda s: "folder" in next(c for c in s["conditions"] if c["type"] == "SourceReady")["message"])
    up.file.rmdir()
    up.write(good)
    up.until_synced("demo")


def test_a_symlinked_file_is_followed_when_its_target_is_swapped(machine: Machine) -> None:
    first, second = machine.folder / "first.yaml", machine.folder / "second.yaml"
    machine.write(machine.spec())
    machine.file.rename(first)
    machine.file.symlink_to(first)
    machine.up(wait=True)
    second.write_text(first.read_text().replace("active: demo", "active: mini"))
    link = machine.folder / "link.new"
    link.symlink_to(second)
    os.replace(link, machine.file)
    machine.until_synced("mini")


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _unknown_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nosuch"}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shutil.rmtree, "ModelFilesBroken"),
        (_without_weights, "ModelFilesBroken"),
        (_cut_short, "ModelFilesBroken"),
        (_no_config, "ModelFilesBroken"),
        (_unknown_type, "LoadFailed"),
    ],
    ids=["no folder", "no weights", "cut short", "no config", "unknown type"],
)
def test_a_model_that_cannot_load_is_refused_and_comes_when_its_files_are_right(
    up: Machine, damage: Any, reason: str
) -> None:
    folder = up.folder / "model"
    shutil.copytree(MINI, folder)
    damage(folder)
    pid = up.status()["models"]["demo"]["pid"]
    spec = up.spec()
    spec["models"]["new"] = {"source": str(folder)}
    up.write({**spec, "active": "new", "queue": {"depth": 77}})
    message = _refused(up, reason)["message"]
    assert "new" in message
    status = up.status()
    assert status["models"]["demo"]["pid"] == pid
    assert status["models"]["new"]["state"] == "failed"
    # The rest of the edit is in force.
    assert up.call("GET", "/admin/config")[1]["spec"]["queue"]["depth"] == 77
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(MINI, folder)
    up.until_synced("new")


def test_the_same_name_with_another_source_rolls_back_too(up: Machine) -> None:
    spec = up.spec()
    spec["models"]["demo"]["source"] = str(up.folder / "nowhere")
    up.write(spec)
    assert "nowhere" in _refused(up, "ModelFilesBroken")["message"]


def test_what_cannot_fit_is_refused_before_anything_is_drained(machine: Machine) -> None:
    spec = machine.spec(memory={"budget": "400MiB"})
    machine.up(spec)
    pid = machine.status()["models"]["demo"]["pid"]
    # The demo model's own maximum is 8,192 tokens, so only a bigger model can be too big.
    big = machine.folder / "big"
    shutil.copytree(DEMO, big)
    config = json.loads((big / "config.json").read_text())
    config |= {"max_position_embeddings": 1_000_000}
    (big / "config.json").write_text(json.dumps(config))
    spec["models"]["big"] = {"source": str(big), "context": 1_000_000}
    machine.write({**spec, "active": "big"})
    message = _refused(machine, "InsufficientMemory")["message"]
    assert "1,000,000 tokens" in message
    assert machine.status()["models"]["demo"]["pid"] == pid


def test_a_port_in_use_keeps_the_old_one_and_is_taken_when_free(up: Machine) -> None:
    spec = up.spec()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        spec["server"]["port"] = port = taken.getsockname()[1]
        up.write(spec)
        up.until(lambda s: any(c["reason"] == "ListenFailed" for c in s["conditions"]))
        assert f"port {port}" in up.condition("Synced")["message"]
        assert up.answer("Who are you?")
    up.port = port
    up.until_synced("demo")


def test_no_valid_file_at_the_first_start_still_answers_and_then_serves(machine: Machine) -> None:
    machine.port = 1234
    machine.write("version: 1\n")
    machine.up(None, wait=False)
    status = machine.until(lambda s: s["last_attempted"] is not None)
    assert status["summary"] == "NotReady"
    assert machine.condition("ConfigAccepted")["status"] == "False"
    assert machine.call("GET", "/healthz") == (200, {"status": "ok"})
    assert machine.call("GET", "/readyz")[0] == 503
    assert machine.ask("hello")[1]["error"]["code"] == "no-model-loaded"


def test_a_broken_file_at_a_later_start_brings_the_last_good_state_back(up: Machine) -> None:
    up.stop()
    up.write("version: 1\nactive: [\n")
    up.up(None, wait=False)
    up.until(lambda s: s["active"]["actual"] == "demo")
    assert up.condition("ConfigAccepted")["status"] == "False"
    assert up.status()["generation"] == 1
    assert up.answer("Who are you?")


def test_a_rollback_outlives_a_restart(up: Machine) -> None:
    """The form that did run is started again, though another generation had it."""
    spec = up.spec()
    spec["models"]["demo"]["source"] = str(up.folder / "nowhere")
    up.write(spec)
    _refused(up, "ModelFilesBroken")
    up.stop()
    up.up(None, wait=False)
    up.until(lambda s: s["active"]["actual"] == "demo")
    assert up.answer("Who are you?")
    assert up.condition("Synced")["status"] == "False"
