"""The edit that makes a file say something else: a diff that `patch` takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from appliance.edits import COMPARED, edit
from reconciler.loader.layers import Layer, pack

OLD, NEW = b"version: 1\nactive: a\nmodels: {}\n", b"version: 1\nactive: b\nmodels: {}\n"


@pytest.mark.parametrize("lines", [0, 3, COMPARED + 1])
def test_patch_makes_the_one_of_the_other(tmp_path: Path, lines: int) -> None:
    file = tmp_path / "lmx.yaml"
    now, wanted = OLD + b"# same\n" * lines, NEW + b"# same\n" * lines
    file.write_bytes(now)
    told = "\n".join(edit(now, wanted, "lmx.yaml")) + "\n"
    subprocess.run(["patch", str(file)], input=told, text=True, check=True, capture_output=True)
    assert file.read_bytes() == wanted


def test_nothing_is_said_of_equal_files() -> None:
    assert edit(OLD, OLD, "lmx.yaml") == ()


def test_a_plain_text_is_compared_with_the_topmost_of_several_files() -> None:
    several = pack([Layer("base.yaml", b"version: 1\n"), Layer("host.yaml", OLD)])
    assert edit(several, NEW, "lmx.yaml")[:2] == ("--- host.yaml", "+++ host.yaml")
    other = pack([Layer("base.yaml", b"version: 1\n# more\n"), Layer("host.yaml", OLD)])
    assert edit(several, other, "lmx.yaml")[:2] == ("--- base.yaml", "+++ base.yaml")


def test_a_text_that_cannot_be_taken_apart_counts_as_one_file() -> None:
    damaged = pack([Layer("base.yaml", OLD), Layer("host.yaml", OLD)])[:-10]
    assert edit(damaged, NEW, "lmx.yaml")[0] == "--- lmx.yaml"
