"""Completion, as bash, zsh and fish ask for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LMX = [sys.executable, "-m", "appliance.cli"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_lmx_itself(shell: str) -> None:
    done = subprocess.run(
        [*LMX, "completion", shell], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "_LMX_COMPLETE" in done.stdout
    assert f"complete_{shell}" in done.stdout


def test_another_shell_is_refused_by_name() -> None:
    done = subprocess.run(
        [*LMX, "completion", "csh"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "csh" in done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("lmx expl", {"explain"}),
        ("lmx models ", {"list", "pull", "load", "unload", "reload"}),
        ("lmx status --ur", {"--url"}),
    ],
)
def test_bash_completes_verbs_and_options(tmp_path: Path, words: str, wanted: set[str]) -> None:
    """As on the tab key: the function that the script defines fills COMPREPLY."""
    (tmp_path / "lmx").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m appliance.cli "$@"\n')
    (tmp_path / "lmx").chmod(0o755)
    count = len(words.split(" ")) - 1
    array = " ".join(f'"{word}"' for word in words.split(" "))
    program = (
        f'eval "$(lmx completion bash)"; COMP_WORDS=({array}); COMP_CWORD={count}; '
        '_lmx_completion lmx; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", program],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    assert wanted <= set(done.stdout.split())
