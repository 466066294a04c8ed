"""Finding one's way: help, versions, wrong words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from appliance import __version__
from appliance.cli.verbs import app
from tests.cli.standin import LMX, Lmx

VERBS = sorted(
    command.name or command.callback.__name__ for command in app.registered_commands if command.callback
)
MODEL_VERBS = ["list", "load", "pull", "reload", "unload"]
SESSION_VERBS = ["drop", "list"]


def test_the_verbs_are_those_of_the_design() -> None:
    wanted = (
        "bench chat completion config confirm diff doctor drain events explain history init metrics plan "
    )
    wanted += "reconcile resume rollback schema serve simulate status suspend switch try up upgrade validate "
    wanted += "version wait warmup"
    assert wanted.split() == VERBS


def test_help_lists_every_verb(lmx: Lmx) -> None:
    listed = {
        line.split()[0] for line in lmx("--help").out.partition("Commands:")[2].splitlines() if line.strip()
    }
    assert listed == {*VERBS, "fleet", "launchd", "models", "monitoring", "sessions", "systemd"}


@pytest.mark.parametrize(
    "words",
    [[verb] for verb in VERBS]
    + [["models", verb] for verb in MODEL_VERBS]
    + [["sessions", verb] for verb in SESSION_VERBS],
)
def test_every_verb_explains_itself_and_takes_a_file(lmx: Lmx, words: list[str]) -> None:
    result = lmx.inside(*words, "--help")
    assert result.code == 0
    assert len(result.out.splitlines()[2].strip()) > 15
    assert "--file" in result.out or words[0] in ("completion", "schema", "version")
    if words[0] in ("completion", "schema", "version"):
        more = ["bash"] if words[0] == "completion" else []
        assert lmx.inside(*words, *more, "-f", "any.yaml").code == 0


def test_up_names_the_file_of_a_profile_that_is_not_there(lmx: Lmx) -> None:
    result = lmx("up", "--profile", "night")
    assert result.code == 1
    assert "there is no profile 'night': lmx.night.yaml is not there" in result.err


def test_a_wrong_option_is_one_line_and_exit_1_so_that_plan_keeps_2_for_changes(lmx: Lmx) -> None:
    result = lmx("plan", "--bogus")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "--bogus" in result.err
    assert "lmx plan --help" in result.err


def test_an_unknown_verb_is_one_line_and_exit_1(lmx: Lmx) -> None:
    result = lmx("statsu")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "statsu" in result.err


def test_version_in_words_and_for_programs(lmx: Lmx) -> None:
    assert lmx("version").out == lmx("--version").out == f"lmx {__version__}\n"
    assert lmx("version", "-o", "json").out == f'{{\n  "version": "{__version__}"\n}}\n'


def test_the_installed_command_is_the_same_program() -> None:
    command = Path(sys.executable).with_name("lmx")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"lmx {__version__}\n"


def test_help_is_instant_because_it_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [*LMX[:3], "-X", "importtime", *LMX[3:], "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert not loaded & {"pydantic", "sanic", "httpx", "rich", "yaml", "mlx", "mlx_lm", "huggingface_hub"}


def test_a_reader_that_leaves_is_no_error(lmx: Lmx) -> None:
    done = subprocess.run(
        f"{' '.join(LMX)} schema | head -c 1",
        shell=True,
        cwd=lmx.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "{"
    assert done.stderr == ""
