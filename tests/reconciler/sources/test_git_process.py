"""The git binary as a child process: bounded, asking nobody, running nothing of the repository's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

from reconciler.sources import git_process
from reconciler.sources.git_process import GitError
from tests.gitops.follower import GOOD, LIMIT_S, Follower
from tests.gitops.remote import Remote, needs_git

pytestmark = [pytest.mark.anyio, needs_git]


async def test_nothing_of_the_repository_runs_or_is_written_out(
    follower: Follower, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks, filters and submodules of the commit, and a global configuration that would run them."""
    marker = tmp_path / "ran"
    script = f"#!/bin/sh\ntouch {marker}\n"
    files = {
        ".gitattributes": "* filter=evil diff=evil\n",
        ".gitmodules": f'[submodule "x"]\n\tpath = x\n\turl = {remote.url}\n',
        "hooks/post-checkout": script,
        ".git-hooks/reference-transaction": script,
        "lmx.yaml": GOOD + "name: quiet\n",
    }
    remote.commit(files)
    remote.push()
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-merge", "pre-auto-gc"):
        (hooks / name).write_text(script)
        (hooks / name).chmod(0o755)
    config = tmp_path / "gitconfig"
    config.write_text(f'[core]\n\thooksPath = {hooks}\n[filter "evil"]\n\tsmudge = touch {marker}\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    assert (await follower.look()).revision == remote.head()
    assert not marker.exists()
    clone = next((follower.folder / "state" / "git").glob("*/clone.git"))
    assert not (clone / "hooks").exists()
    assert not list((follower.folder / "state").rglob("lmx.yaml"))


def program(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A git that does something else."""
    file = folder / "git"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


async def test_git_that_does_not_end_in_time_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "exec sleep 600", monkeypatch)
    with pytest.raises(GitError, match="git ls-remote had not ended after") as raised:
        await git_process.call(None, "ls-remote", limit_s=0.2)
    assert raised.value.reason == "GitTimeout"


async def test_git_that_says_too_much_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "yes", monkeypatch)
    with pytest.raises(GitError, match="said more than"):
        await git_process.call(None, "ls-remote")


async def test_what_stays_behind_on_purpose_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ssh does with ControlPersist: a session of its own, which keeps what it got to write to."""
    pid = tmp_path / "pid"
    program(tmp_path, f"setsid sleep 600 & echo $! > {pid}; echo said", monkeypatch)
    done = await git_process.call(None, "ls-remote", limit_s=LIMIT_S)
    assert (done.status, done.out) == (0, b"said\n")
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_what_git_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"
    program(tmp_path, f"sleep 600 & echo $! > {pid}.new; mv {pid}.new {pid}; wait", monkeypatch)
    call = asyncio.ensure_future(git_process.call(None, "fetch", limit_s=LIMIT_S))
    async with asyncio.timeout(LIMIT_S):
        while not pid.exists():  # noqa: ASYNC110 - written by another process
            await asyncio.sleep(0.02)
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(int(pid.read_text()))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert started.status() == psutil.STATUS_ZOMBIE or started.wait(LIMIT_S) is None


async def test_without_git_the_machine_says_what_to_install(
    follower: Follower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    view = await follower.look()
    assert view.failed is not None
    assert (view.failed.reason, "is not installed" in view.failed.message) == ("GitMissing", True)
    assert follower.name() is None


def test_what_git_says_is_shown_without_passwords() -> None:
    told = git_process.shown(
        "warning: x\nfatal: unable to access 'https://me:secret@host/x.git/': \x1b[31mno\n"
    )
    assert told == "fatal: unable to access 'https://host/x.git/':  [31mno"
    assert git_process.address("https://me:secret@host/x.git") == "https://host/x.git"
    assert git_process.address("git@host:fleet.git") == "host:fleet.git"


def test_git_gets_none_of_our_secrets_and_asks_nobody() -> None:
    kept = git_process.environment(
        {"PATH": "/bin", "LMX_KEYS": "secret", "GIT_DIR": "/x", "GIT_SSH_COMMAND": "ssh -4", "DISPLAY": ":0"}
    )
    assert {"LMX_KEYS", "GIT_DIR", "DISPLAY"}.isdisjoint(kept)
    assert kept["GIT_SSH_COMMAND"] == "ssh -4"
    assert kept["GIT_TERMINAL_PROMPT"] == "0"
