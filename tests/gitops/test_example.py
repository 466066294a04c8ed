"""examples/fleet: every file of it is valid, together and as the machines take them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from appliance.fleet import inventory
from reconciler.loader import layers, load_text
from reconciler.loader.layers import Layer
from reconciler.sources.local import LocalSource

FLEET = Path(__file__).parents[2] / "examples" / "fleet"
HOSTS = sorted((FLEET / "hosts").glob("*.yaml"))
LOCAL = FLEET / "machine" / "lmx.yaml"


@pytest.mark.parametrize("host", HOSTS, ids=lambda path: path.stem)
def test_a_host_is_valid_on_its_own_and_over_the_machine_s_file(host: Path) -> None:
    alone = load_text(LocalSource(host).read().data, path=host, env={})
    assert (alone.warnings, alone.spec.name) == ((), host.stem)
    theirs = [Layer(layer.name, layer.data, "git") for layer in LocalSource(host).layers()]
    local = LOCAL.read_bytes().replace(b"studio-01", host.stem.encode())
    packed = layers.pack([Layer("lmx.yaml", local), *theirs])
    spec = load_text(packed, path=LOCAL, env={}).spec
    assert (spec.name, spec.active, spec.server.overrides) == (host.stem, "daily", "deny")
    assert spec.server.api_keys is not None  # the machine's own, below what the repository says
    assert spec.git is not None
    assert spec.git.path == f"hosts/{host.stem}.yaml"


def test_null_takes_a_model_of_the_base_away() -> None:
    found = {host.stem: load_text(LocalSource(host).read().data, path=host, env={}).spec for host in HOSTS}
    assert {name: list(spec.models) for name, spec in found.items()} == {
        "studio-01": ["daily", "embed", "coder"],
        "studio-02": ["daily"],
    }


def test_the_inventory_names_every_host() -> None:
    machines = inventory.read(FLEET / "fleet.yaml", {"LMX_FLEET_KEY": "secret"})
    assert {machine.name for machine in machines} == {host.stem for host in HOSTS}


def test_every_file_that_the_page_names_is_there() -> None:
    page = (FLEET / "README.md").read_text()
    for name in re.findall(r"^([a-z]+[/.][^ ]+) ", page, re.MULTILINE):
        assert (FLEET / name).is_file(), name


def test_the_workflow_runs_the_check() -> None:
    steps = yaml.safe_load((FLEET / "ci" / "github.yml").read_text())["jobs"]["check"]["steps"]
    assert any(step.get("run") == "ci/check.sh" for step in steps)
