"""`lmx models pull`: what a person sees of a download. The download itself is tested in tests/hub."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.cli.standin import Lmx

CHILD = """
import json, os, sys, time
mode = open({mode!r}).read()
def tell(**message): print(json.dumps(message), flush=True)
open({pid!r}, "w").write(str(os.getpid()))
open({arguments!r}, "w").write(" ".join(sys.argv[1:]))
if mode == "silent":
    sys.exit("Traceback ...\\nMemoryError")
tell(event="start", done=0, total=2**30, commit="a" * 40)
for tenth in range(6):
    tell(event="progress", done=tenth * 2**30 // 10, total=2**30, rate=2**20 * 50.0, eta=12.0, file="a")
if mode == "hang":
    time.sleep(60)
if mode == "gated":
    tell(event="error", code="gated", message="org/name needs its owner's permission", permanent=True)
    sys.exit(1)
tell(event="retry", message="the connection broke; trying again in 1.0 s")
tell(event="done", path="/cache/org--name", commit="a" * 40)
"""

RUN = """
import sys
from appliance.cli import pull
from appliance.cli.__main__ import main
pull.FETCH = {fetch!r}
sys.exit(main())
"""


class Pull(Lmx):
    """`lmx models pull` with a stand-in for the downloading child."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pid, self.arguments, self.mode = folder / "pid", folder / "arguments", folder / "mode"
        child = folder / "child.py"
        child.write_text(CHILD.format(mode=str(self.mode), pid=str(self.pid), arguments=str(self.arguments)))
        self.mode.write_text("good")
        program = RUN.format(fetch=[sys.executable, str(child)])
        self.command = [sys.executable, "-W", "error", "-c", program]

    def child_is_gone(self) -> bool:
        try:
            os.kill(int(self.pid.read_text()), 0)
        except ProcessLookupError:
            return True
        return False


@pytest.fixture
def pull(tmp_path: Path) -> Pull:
    return Pull(tmp_path)


def test_a_repo_is_pulled_without_any_file(pull: Pull) -> None:
    result = pull("models", "pull", "org/name", "--revision", "v1")
    assert result.code == 0
    assert result.out == "org/name at aaaaaaaaaaaa is complete: /cache/org--name\n"
    assert "lmx: org/name: 1.0 GiB\n" in result.err
    assert "lmx: org/name: 50%, 50.0 MiB/s, 12s left\n" in result.err
    assert "the connection broke" in result.err
    assert pull.arguments.read_text() == "org/name --revision v1"


def test_a_model_of_the_file_is_pulled_at_its_revision(pull: Pull) -> None:
    (pull.folder / "lmx.yaml").write_text(
        "version: 1\nactive: daily\nmodels:\n"
        "  daily: {source: org/name, revision: 1f2e3d4, aliases: [d]}\n  here: {source: builtin:lmx-demo}\n"
    )
    result = pull("models", "pull", "d", "-o", "json")
    assert result.code == 0
    assert pull.arguments.read_text() == "org/name --revision 1f2e3d4"
    assert json.loads(result.out) == {
        "pulled": [{"repo": "org/name", "commit": "a" * 40, "path": "/cache/org--name"}]
    }
    assert pull("models", "pull", "here").out == "here is on this machine already.\n"


def test_a_name_that_is_neither_is_explained(pull: Pull) -> None:
    (pull.folder / "lmx.yaml").write_text("version: 1\nactive: null\nmodels: {}\n")
    result = pull("models", "pull", "dialy")
    assert result.code == 1
    assert "org/name" in result.err


def test_an_error_of_the_hub_is_told_in_its_words(pull: Pull) -> None:
    pull.mode.write_text("gated")
    result = pull("models", "pull", "org/name")
    assert result.code == 1
    assert "needs its owner's permission" in result.err


def test_a_download_that_dies_is_an_error_that_says_why(pull: Pull) -> None:
    pull.mode.write_text("silent")
    result = pull("models", "pull", "org/name")
    assert result.code == 1
    assert "MemoryError" in result.err


def test_a_terminal_gets_a_bar_with_rate_and_time_left(pull: Pull) -> None:
    shown = pull.terminal("models", "pull", "org/name")
    assert shown.code == 0
    assert "━" in shown.out
    assert "50.0 MiB/s  12s left" in shown.out


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_stopping_it_stops_the_download_and_says_how_to_go_on(pull: Pull, number: int, code: int) -> None:
    pull.mode.write_text("hang")
    process = pull.start("models", "pull", "org/name")
    assert process.stderr is not None
    while "50%" not in process.stderr.readline():
        pass
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert pull.child_is_gone()
    assert "Traceback" not in said
    if number == signal.SIGINT:
        assert "goes on from there" in said
