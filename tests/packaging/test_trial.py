"""As a new user: a fresh clone, a fresh HOME, and nothing but the commands that README.md shows.

`make trial`. It installs everything anew from the package registry, so it takes minutes and is not part of
`make test`. What it prints is how long each step took.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 300.0  # from the clone to the answer, as the README promises
# What a machine says about how to reach a package registry is its own, not the new user's.
KEPT = ("PATH", "LANG", "LC_ALL", "TERM", "USER", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


def section(title: str) -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def commands(title: str, language: str) -> list[str]:
    """Of all blocks of that language in the section, in order; comments left out."""
    blocks = re.findall(rf"```{language}\n(.*?)```", section(title), re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line]


@dataclass
class Trial:
    """clone: the new checkout. took: seconds since the start, by step."""

    clone: Path
    env: dict[str, str]
    port: int
    began: float
    took: dict[str, float] = field(default_factory=dict)

    def run(self, command: str) -> str:
        """As the user would in a second terminal; only the port is another, since 1234 may be taken here."""
        activated = f"source .venv/bin/activate && {command}".replace(":1234", f":{self.port}")
        done = subprocess.run(
            ["bash", "-c", activated],
            cwd=self.clone,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode in (0, 2), (command, done)
        return done.stdout

    def note(self, step: str) -> None:
        self.took[step] = time.monotonic() - self.began


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A clone in which `make up` runs; ends what it started."""
    folder = tmp_path_factory.mktemp("trial")
    home = folder / "home"
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith("PIP_")}
    own = Path.home() / ".config" / "pip" / "pip.conf"
    env |= {"HOME": str(home), **({"PIP_CONFIG_FILE": str(own)} if own.exists() else {})}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    began = time.monotonic()
    subprocess.run(
        ["git", "clone", "--quiet", str(ROOT), "lmx"], cwd=folder, env=env, check=True, timeout=120
    )
    made = Trial(folder / "lmx", env, port, began)
    made.note("cloned")
    file = made.clone / "lmx.yaml"
    file.write_text(file.read_text().replace("port: 1234", f"port: {port}"))
    (start,) = (line for line in commands("Quick start", "sh") if line.startswith("make"))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            start.split(), cwd=made.clone, env=env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            while not re.search(r"Ready .*True", (folder / "log").read_text()):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() - began < 2 * LIMIT_S, (folder / "log").read_text()
                time.sleep(0.2)
            made.note("ready")
            yield made
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(60)


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_from_clone_to_an_answer_in_two_commands_and_to_another_model_in_one_edit(
    trial: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    assert section("Quick start").count("`source .venv/bin/activate`") == 1
    ask = commands("Quick start", "console")[0]
    answer = json.loads(trial.run(ask))
    assert "LMX" in answer["choices"][0]["message"]["content"]
    trial.note("answered")

    before = json.loads(trial.run("lmx status -o json"))["active"]["actual"]
    edits = [line for line in commands("Edit to swap", "console") if line.startswith("sed ")]
    assert len(edits) == 1
    for command in commands("Edit to swap", "console"):
        trial.run(command)
    status = json.loads(trial.run("lmx status -o json"))
    assert before == "demo"
    assert status["active"]["actual"] == "mini"
    assert json.loads(trial.run(ask))["model"] == "mini"
    trial.note("swapped")

    with capsys.disabled():
        print("\n" + "\n".join(f"{step:>10}  {seconds:6.1f} s" for step, seconds in trial.took.items()))
    assert trial.took["answered"] < LIMIT_S
