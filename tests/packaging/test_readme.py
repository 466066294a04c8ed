"""What the documents say is so: their commands run, and they leave no verb out."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from appliance import __version__
from appliance.cli import models
from appliance.cli.verbs import app
from reconciler.loader import load_text

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """The lmx.yaml of this checkout, served from a folder of its own on a free port."""
    folder = tmp_path_factory.mktemp("readme")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    text = (ROOT / "lmx.yaml").read_text(encoding="utf-8").replace("port: 1234", f"port: {port}")
    assert str(port) in text
    folder.joinpath("lmx.yaml").write_text(text)
    folder.joinpath("examples").symlink_to(ROOT / "examples")
    environment = environment_in(folder)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["lmx", "up"], cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            wait = ["lmx", "wait", "--timeout", "60s"]
            subprocess.run(wait, cwd=folder, env=environment, check=True, timeout=90)
            yield folder, port
        finally:
            process.terminate()
            process.wait(30)


def environment_in(folder: Path) -> dict[str, str]:
    """As in a checkout after `make up`: the command lies beside this Python."""
    return {**os.environ, "HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_every_command_of_the_readme_runs_as_it_stands_one_after_the_other(served: tuple[Path, int]) -> None:
    folder, port = served
    assert len(COMMANDS) >= 9
    assert sum(command.startswith("curl") for command in COMMANDS) >= 4
    for command in COMMANDS:
        done = subprocess.run(
            command.replace(":1234", f":{port}").replace("curl ", "curl --fail-with-body "),
            shell=True,
            cwd=folder,
            env=environment_in(folder),
            capture_output=True,
            text=True,
            timeout=90,
        )
        changes = 2  # what `lmx plan` exits with when there are any
        assert done.returncode in ((0, changes) if command == "lmx plan" else (0,)), (command, done)
        assert done.stdout or command.startswith("sed"), command
    assert "\nactive: mini\n" in (folder / "lmx.yaml").read_text()


def test_the_python_example_runs(served: tuple[Path, int], capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    example = example.replace(":1234", f":{served[1]}").replace('model="demo"', 'model="default"')
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_example_files_are_valid() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", README + OPERATING, re.DOTALL)
    assert examples
    for text in examples:
        assert load_text(text, path=Path("lmx.yaml"), env={}).spec.version == 1


def test_the_readme_names_every_verb_and_none_that_is_still_to_come() -> None:
    table = README.partition("## The command line")[2].partition("##")[0]
    verbs = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    for verb in verbs:
        assert re.search(rf"`lmx {verb}\b", table), verb
    for command in models.app.registered_commands:
        name = command.name or (command.callback.__name__ if command.callback else "")
        assert f"`{name}`" in table or f"models {name}`" in table, name


def test_the_readme_names_every_verb_of_make_and_make_lists_them() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    listed = subprocess.run(
        ["make", "--no-print-directory", "-C", ROOT], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert {line.split()[0] for line in listed.splitlines()[1:]} == set(phony.split())
    for verb in phony.split():
        assert re.search(rf"\bmake {verb}\b", README), verb


def test_the_changelog_speaks_of_this_version() -> None:
    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_continuous_integration_runs_what_a_developer_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"
    assert yaml.safe_load((ROOT / "lmx.yaml").read_text())["version"] == 1
