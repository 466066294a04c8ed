"""Findings: on this machine, on one made up, and on what a Mac's commands print."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from email.utils import formatdate
from pathlib import Path

import pytest

from appliance.doctor import mac, machine, places
from appliance.doctor.finding import Finding
from reconciler.loader import load_text
from reconciler.spec import Git
from tests.e2e.machine import free_port
from tests.services.test_observed import DOWN, RUNNING

LMX = [sys.executable, "-m", "appliance.cli"]
# `pmset -g`, in the form of its manual page and of public reports.
PMSET = """\
System-wide power settings:
Currently in use:
 standby              0
 Sleep On Power Button 1
 autorestart          1
 powernap             1
 networkoversleep     0
 disksleep            10
 sleep                0 (sleep prevented by sharingd, powerd)
 ttyskeepawake        1
 displaysleep         10 (display sleep prevented by Screen Sharing)
 tcpkeepalive         1
"""


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.about: finding.level for finding in findings}


def test_a_mac_that_stays_up() -> None:
    assert levels(list(mac.power(PMSET))) == {"sleep": "ok", "restart": "ok"}


def test_a_mac_that_sleeps_and_stays_off() -> None:
    text = PMSET.replace(" sleep                0", " sleep                15").replace(
        " autorestart          1", " autorestart          0"
    )
    found = list(mac.power(text))
    assert levels(found) == {"sleep": "look", "restart": "look"}
    assert "15 minutes" in found[0].message
    assert found[0].fix == "sudo pmset -a sleep 0"


@pytest.mark.parametrize(
    ("printed", "level"),
    [("FileVault is On.\n", "look"), ("FileVault is Off.\n", "ok"), ("", "unknown"), (None, "unknown")],
)
def test_filevault(printed: str | None, level: str) -> None:
    assert levels(list(mac.filevault(printed))) == {"filevault": level}


@pytest.mark.parametrize(
    ("printed", "level"), [("0\n", "ok"), ("57344\n", "ok"), ("", "unknown"), (None, "unknown")]
)
def test_gpu_memory(printed: str | None, level: str) -> None:
    assert levels(list(mac.wired(printed))) == {"gpu memory": level}


@pytest.mark.parametrize(("printed", "level"), [(RUNNING, "ok"), (DOWN, "look"), (None, "look")])
def test_launchd(printed: str | None, level: str) -> None:
    assert levels(list(mac.service(printed, "lmx.appliance"))) == {"launchd": level}


def test_commands_that_are_not_there_leave_nothing_that_looks_well() -> None:
    found = list(mac.checks(lambda _: None, "lmx.appliance"))
    assert {finding.level for finding in found} == {"unknown", "look"}


def test_mlx_starts_here() -> None:
    found = list(machine.mlx())
    assert levels(found)["mlx"] == "ok"
    assert found[0].message.startswith("mlx 0.32")


def test_an_mlx_that_does_not_start_is_told_in_its_own_words() -> None:
    (found,) = machine.mlx("raise ImportError('no mlx.core')")
    assert found.level == "bad"
    assert "no mlx.core" in found.message


def test_a_port_that_another_program_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        text = f"version: 1\nactive: null\nmodels: {{}}\nserver: {{host: 127.0.0.1, port: {port}}}\n"
        spec = load_text(text.encode(), path=Path("lmx.yaml"), env={}).spec
        (found,) = places.port(spec, ours=False)
    assert found.level == "bad"
    assert f"lsof -nP -iTCP:{port}" in (found.fix or "")
    (found,) = places.port(spec, ours=False)
    assert found.level == "ok"


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> dict[str, str]:
        return levels(list(places.disks(tmp_path / "a" / "b", None, tmp_path / "hub", 0)))

    assert found() == {"state": "ok", "hub cache": "ok"}
    monkeypatch.setattr(places, "LOW_DISK", 2**62)
    assert found() == {"state": "look", "hub cache": "look"}
    monkeypatch.setattr(os, "access", lambda *_: False)  # we may be root, who may write everywhere
    assert found() == {"state": "bad", "hub cache": "bad"}


@pytest.mark.parametrize(("off", "level"), [(0, "ok"), (100, "ok"), (-3600, "look"), (500, "look")])
def test_the_clock(off: float, level: str) -> None:
    now = 1_800_000_000.0
    (found,) = places.clock(formatdate(now - off, usegmt=True), now)
    assert found.level == level


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_hub_that_does_not_tell_the_time(date: str | None) -> None:
    (found,) = places.clock(date, 0.0)
    assert found.level == "unknown"


def test_a_hub_that_does_not_answer_and_one_that_is_not_to_be_asked() -> None:
    endpoint = f"http://user:hidden@127.0.0.1:{free_port()}"
    (found,) = places.hub({"HF_ENDPOINT": endpoint})
    assert found.level == "look"
    assert "hidden" not in found.message
    (found,) = places.hub({"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "1"})
    assert found.level == "ok"


def test_the_verb_tells_all_of_it_and_its_exit_status_is_that_of_the_worst(tmp_path: Path) -> None:
    def told() -> tuple[int, dict[str, str]]:
        done = subprocess.run(
            [*LMX, "doctor", "-o", "json"],
            cwd=tmp_path,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, {one["about"]: one["level"] for one in json.loads(done.stdout)}

    code, found = told()
    assert (code, found["file"]) == (1, "bad")
    text = f"version: 1\nactive: null\nmodels: {{}}\nserver: {{host: 127.0.0.1, port: {free_port()}}}\n"
    (tmp_path / "lmx.yaml").write_text(text, encoding="utf-8")
    code, found = told()
    assert (code, found["file"], found["port"]) == (0, "ok", "ok")
    assert {"python", "mlx", "memory", "open files", "state", "hub cache", "prompt cache"} <= set(found)
    assert not (tmp_path / ".lmx").exists()


def test_what_a_repository_is_followed_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    signed = Git.model_validate({"url": "https://git.example/x.git", "verify": {"allowed_signers": "s"}})
    for program in ("git", "ssh-keygen"):
        (tmp_path / program).write_text("")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert levels(list(places.git(signed))) == {"git": "ok"}
    (tmp_path / "ssh-keygen").unlink()
    (found,) = places.git(signed)
    assert (found.level, found.message) == ("bad", "ssh-keygen not found, and `git` is declared")
    assert levels(list(places.git(signed.model_copy(update={"verify": None})))) == {"git": "ok"}
