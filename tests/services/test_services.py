"""What launchd and systemd are told: byte for byte, and as their own tools read it."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.services import definition, places, render, steps
from appliance.services.definition import Service, ServiceError
from reconciler.loader import load_text

GOLDEN = Path(__file__).parent / "golden"
DAEMON = Service(
    label="lmx.appliance",
    kind="daemon",
    python=Path("/opt/lmx/bin/python"),
    file=Path("/Users/ada/models & more/lmx.yaml"),
    user="ada",
    home=Path("/Users/ada"),
    logs=Path("/Library/Logs/LMX"),
    stop_s=90,
    path="/usr/bin:/bin",
    environment={"HF_HOME": "/Volumes/Big/hub", "LMX_ZONE": 'a "b" <c> $d %e'},
    env_file=Path("/Users/ada/.lmx/secrets"),
)
AGENT = replace(
    DAEMON, kind="agent", user=None, logs=Path("/Users/ada/Library/Logs/LMX"), environment={}, env_file=None
)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("daemon.plist", render.plist(DAEMON)),
        ("agent.plist", render.plist(AGENT)),
        ("daemon.service", render.unit(replace(DAEMON, logs=None))),
        ("agent.service", render.unit(replace(AGENT, logs=None))),
    ],
)
def test_the_bytes_are_those_of_the_golden_file(name: str, data: bytes) -> None:
    """To make them anew after a change that is meant: tests/services/golden.py."""
    assert data.decode() == (GOLDEN / name).read_text(encoding="utf-8")


def test_a_plist_says_what_the_service_says() -> None:
    told = plistlib.loads(render.plist(DAEMON))
    assert told["ProgramArguments"] == list(DAEMON.program)
    assert told["EnvironmentVariables"] == DAEMON.variables
    assert told["EnvironmentVariables"]["LMX_ZONE"] == 'a "b" <c> $d %e'
    assert told["WorkingDirectory"] == "/Users/ada/models & more"
    # Crashed alone does not restart a job on newer systems, and a clean exit is meant.
    assert told["KeepAlive"] == {"Crashed": True, "SuccessfulExit": False}
    assert (told["ExitTimeOut"], told["Umask"]) == (90, 0o077)
    assert "UserName" not in plistlib.loads(render.plist(AGENT))


@pytest.mark.skipif(shutil.which("plistutil") is None, reason="needs libplist-utils")
@pytest.mark.parametrize("service", [DAEMON, AGENT])
def test_another_reader_of_plists_takes_it_too(service: Service, tmp_path: Path) -> None:
    source, binary = tmp_path / "a.plist", tmp_path / "a.bin"
    source.write_bytes(render.plist(service))
    subprocess.run(["plistutil", "-i", source, "-f", "bin", "-o", binary], check=True, capture_output=True)
    assert plistlib.loads(binary.read_bytes()) == plistlib.loads(source.read_bytes())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_finds_nothing_wrong_and_reads_the_words_as_meant(tmp_path: Path) -> None:
    place, odd = tmp_path / "a 50% $x", tmp_path / "a 50% $x\\y"
    place.mkdir()
    odd.mkdir()
    python = place / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    service = replace(
        DAEMON, user="root", logs=None, python=python, file=odd / "lmx.yaml", home=odd, env_file=None
    )
    unit = tmp_path / "lmx.service"
    unit.write_bytes(render.unit(service))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "a b"}, "no label"),
        ({"label": "../x"}, "no label"),
        ({"user": None}, "--user NAME"),
        ({"environment": {"HF_TOKEN": "x"}}, "--env-file"),
        ({"environment": {"LMX_KEYS": "x"}}, "--env-file"),
        ({"environment": {"a-b": "x"}}, "no name"),
        ({"environment": {"A": "x\nb"}}, "control character"),
        ({"file": Path("lmx.yaml")}, "absolute"),
        ({"file": Path("/a\nb")}, "control character"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(change: dict[str, object], words: str) -> None:
    service = replace(DAEMON, **change)  # type: ignore[arg-type]
    for made in (render.plist, render.unit):
        with pytest.raises(ServiceError, match=words):
            made(service)


def test_systemd_runs_no_program_with_a_backslash_in_its_name() -> None:
    with pytest.raises(ServiceError, match="no program with quotes or backslashes"):
        render.unit(replace(DAEMON, python=Path("/a\\b/python")))


def test_the_manager_waits_longer_than_a_drain_takes() -> None:
    spec = load_text(
        b"version: 1\nactive: null\nmodels: {}\nswap: {drain_timeout: 2m}\n", path=Path("lmx.yaml"), env={}
    ).spec
    assert definition.stop_seconds(spec) == 150


def test_variables_that_the_file_needs_and_a_service_lacks_are_named() -> None:
    text = b"version: 1\nname: ${LMX_HOST}\nactive: null\nmodels: {}\n"
    spec = load_text(text, path=Path("lmx.yaml"), env={"LMX_HOST": "studio"}).spec
    assert definition.unmet(spec, {}, None) == ["LMX_HOST"]
    assert definition.unmet(spec, {"LMX_HOST": "studio"}, None) == []
    assert definition.unmet(spec, {}, Path("/secrets")) == []


def test_a_daemon_and_an_agent_lie_where_launchd_looks() -> None:
    assert places.plist_path(DAEMON) == Path("/Library/LaunchDaemons/lmx.appliance.plist")
    assert places.plist_path(AGENT) == Path("/Users/ada/Library/LaunchAgents/lmx.appliance.plist")
    assert [places.domain(service, 501) for service in (DAEMON, AGENT)] == ["system", "gui/501"]


def test_installing_replaces_what_runs_and_only_the_daemon_needs_root() -> None:
    shown = [step.shown for step in steps.launchd_install(DAEMON, Path("/tmp/x y.plist"), 501)]
    assert shown == [
        "sudo mkdir -p /Library/LaunchDaemons",
        "sudo install -d -m 700 -o ada /Library/Logs/LMX",
        "sudo install -m 644 -o root -g wheel '/tmp/x y.plist' /Library/LaunchDaemons/lmx.appliance.plist",
        "sudo launchctl bootout system/lmx.appliance || true",
        "sudo launchctl enable system/lmx.appliance",
        "sudo launchctl bootstrap system /Library/LaunchDaemons/lmx.appliance.plist",
        "sudo launchctl kickstart system/lmx.appliance",
    ]
    agent = [
        *steps.launchd_install(AGENT, Path("/tmp/x.plist"), 501),
        *steps.launchd_uninstall(AGENT, 501),
        *steps.systemd_install(AGENT, Path("/tmp/x.service")),
        *steps.systemd_uninstall(AGENT),
    ]
    assert not any(step.root for step in agent)
    assert "launchctl bootstrap gui/501 /Users/ada/Library/LaunchAgents/lmx.appliance.plist" in {
        step.shown for step in agent
    }
    assert "systemctl --user enable lmx.appliance.service" in {step.shown for step in agent}
