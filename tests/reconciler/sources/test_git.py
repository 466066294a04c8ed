"""Following a real repository with real git: what is taken, what is refused, and what stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from pathlib import Path

import psutil
import pytest

from reconciler.events import EventType
from reconciler.gate import SourceProblem, SpecProblem
from reconciler.loader import layers
from reconciler.sources import git_process
from reconciler.sources.git_process import GitError
from tests.gitops.follower import GOOD, LIMIT_S, Follower
from tests.gitops.remote import Remote, needs_git

pytestmark = [pytest.mark.anyio, needs_git]


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    made = Remote(tmp_path / "remote")
    made.put(GOOD + "name: first\n")
    return made


@pytest.fixture
def follower(tmp_path: Path, remote: Remote) -> Follower:
    return Follower(tmp_path, remote)


async def test_before_the_first_look_the_local_file_alone_counts(follower: Follower) -> None:
    assert follower.name() is None
    assert follower.source.view().revision is None


async def test_a_commit_is_laid_over_the_local_file(follower: Follower, remote: Remote) -> None:
    follower.says({"server": {"port": 4321}})
    remote.put(GOOD + "name: second\nserver: {max_body: 1MiB}\n")
    view = await follower.look()
    assert view.revision == view.head == remote.head()
    assert (view.verified, view.refused, view.failed) == (None, None, None)
    spec = follower.parsed().spec
    assert (spec.name, spec.server.port, spec.server.max_body) == ("second", 4321, 2**20)
    assert EventType.COMMIT_TAKEN in [kind for kind, _ in follower.events]


async def test_a_path_and_the_bases_it_extends(follower: Follower, remote: Remote) -> None:
    follower.says(path="hosts/a.yaml")
    remote.commit({"base.yaml": GOOD + "name: base\nqueue: {depth: 3}\n", "mid.yaml": "extends: base.yaml\n"})
    remote.commit({"hosts/a.yaml": "extends: ../mid.yaml\nname: a\n"})
    remote.push()
    await follower.look()
    spec = follower.parsed().spec
    assert (spec.name, spec.queue.depth) == ("a", 3)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"lmx.yaml": None, "other.yaml": GOOD}, "the commit has no file lmx.yaml; see git.path"),
        (
            {"lmx.yaml": "extends: gone.yaml\n"},
            "git:lmx.yaml:1:10: extends: the commit has no file gone.yaml",
        ),
        ({"lmx.yaml": "extends: ../gone.yaml\n"}, "../gone.yaml leads out of the repository"),
        ({"lmx.yaml": "extends: /etc/passwd\n"}, "write the path of a base from the file that extends it"),
        ({"lmx.yaml": "extends: b.yaml\n", "b.yaml": "extends: lmx.yaml\n"}, "a circle; cut it"),
        ({"lmx.yaml": GOOD + "colour: red\n"}, "git:lmx.yaml:4:1: colour: unknown key"),
        (
            {"lmx.yaml": "extends: b.yaml\n", "b.yaml": GOOD + "quee: {}\n"},
            "git:b.yaml:4:1: quee: unknown key",
        ),
        ({"lmx.yaml": "a: [\n"}, "git:lmx.yaml:2:1: not valid YAML"),
        ({"lmx.yaml": b"\xff\xfe"}, "this is UTF-16"),
        ({"lmx.yaml": "x" * 300_000}, "has 300000 bytes in the commit"),
    ],
)
async def test_a_commit_that_cannot_run_keeps_the_one_before(
    follower: Follower, remote: Remote, files: dict[str, str | bytes | None], problem: str
) -> None:
    await follower.look()
    kept = remote.head()
    remote.commit(files)
    bad = remote.push()
    view = await follower.look()
    assert (view.revision, view.head) == (kept, bad)
    assert problem in follower.problem()
    assert follower.name() == "first"
    content = follower.source.read()
    assert content.refused is not None
    assert content.refused.message == follower.problem()
    view = await follower.look()  # the same again is no news
    assert [kind for kind, _ in follower.events].count(EventType.COMMIT_REFUSED) == 1


async def test_a_link_in_the_repository_leads_nowhere(follower: Follower, remote: Remote) -> None:
    (remote.work / "lmx.yaml").unlink()
    (remote.work / "lmx.yaml").symlink_to("/etc/hostname")
    remote.commit({})
    remote.push()
    await follower.look()
    assert "is a link in the commit; links are not followed there" in follower.problem()


async def test_the_newest_that_stands_is_taken_although_the_head_does_not(
    follower: Follower, remote: Remote
) -> None:
    await follower.look()
    remote.put(GOOD + "name: second\n")
    good = remote.put(GOOD + "name: third\n")
    bad = remote.put("nonsense\n")
    view = await follower.look()
    assert (view.revision, view.head) == (good, bad)
    assert follower.name() == "third"
    assert view.refused is not None
    fixed = remote.put(GOOD + "name: fourth\n")
    view = await follower.look()
    assert (view.revision, view.refused) == (fixed, None)


async def test_a_rewritten_branch_is_refused_until_it_is_put_back(follower: Follower, remote: Remote) -> None:
    first = remote.head()
    kept = remote.put(GOOD + "name: second\n")
    await follower.look()
    remote.reset(first)
    remote.commit({"lmx.yaml": GOOD + "name: rewritten\n"})
    remote.push(force=True)
    view = await follower.look()
    assert (view.revision, follower.name()) == (kept, "second")
    assert view.refused is not None
    assert view.refused.reason == "NotFastForward"
    remote.reset(kept)
    remote.commit({"lmx.yaml": GOOD + "name: on top\n"})
    remote.push(force=True)
    assert (await follower.look()).refused is None
    assert follower.name() == "on top"


async def test_a_rewritten_branch_is_followed_where_the_local_file_says_so(
    follower: Follower, remote: Remote
) -> None:
    follower.says(fast_forward_only=False)
    first = remote.head()
    remote.put(GOOD + "name: second\n")
    await follower.look()
    remote.reset(first)
    remote.push(force=True)
    assert (await follower.look()).revision == first
    assert follower.name() == "first"


@pytest.mark.parametrize("annotated", [False, True])
async def test_a_tag_and_a_pinned_commit(follower: Follower, remote: Remote, annotated: bool) -> None:
    first = remote.head()
    remote.git("tag", *(["-a", "-m", "one"] if annotated else []), "v1")
    remote.push("v1")
    newest = remote.put(GOOD + "name: second\n")
    follower.says(ref="v1")
    assert (await follower.look()).revision == first
    follower.says(ref=newest)
    assert (await follower.look()).revision == newest
    follower.says(ref=first)  # whoever writes the local file may go back
    assert (await follower.look()).revision == first
    assert follower.name() == "first"


async def test_a_branch_that_is_not_there_is_told(follower: Follower) -> None:
    follower.says(ref="staging")
    view = await follower.look()
    assert view.failed is not None
    assert view.failed.reason == "RefMissing"
    assert "has no branch and no tag 'staging'" in view.failed.message


# --- signatures --------------------------------------------------------------------------------------


async def test_only_signed_commits_of_known_signers_run(follower: Follower, remote: Remote) -> None:
    remote.keys()
    follower.says(verify={"allowed_signers": str(remote.signers)})
    assert (await follower.look()).revision is None
    assert "it is not signed" in follower.problem()
    signed = remote.put(GOOD + "name: signed\n", by="ann")
    view = await follower.look()
    assert (view.revision, view.verified, view.signer) == (signed, True, "ann@fleet")
    remote.put(GOOD + "name: stranger\n", by="bob")
    view = await follower.look()
    assert view.revision == signed
    assert "its signer is none of those in" in follower.problem()
    remote.put(GOOD + "name: unsigned\n")
    assert (await follower.look()).revision == signed
    assert follower.name() == "signed"


async def test_a_signature_under_another_text_does_not_hold(follower: Follower, remote: Remote) -> None:
    remote.keys()
    follower.says(verify={"allowed_signers": str(remote.signers)})
    remote.put(GOOD + "name: signed\n", by="ann")
    raw = remote.git("cat-file", "commit", "HEAD").replace("change", "another")
    (remote.folder / "forged").write_text(raw + "\n")
    forged = remote.git("hash-object", "-t", "commit", "-w", str(remote.folder / "forged"))
    remote.reset(forged)
    remote.push(force=True)
    view = await follower.look()
    assert view.revision is None
    assert "is not taken" in follower.problem()


async def test_without_the_list_of_signers_nothing_is_taken(follower: Follower, remote: Remote) -> None:
    remote.keys()
    remote.put(GOOD, by="ann")
    follower.says(verify={"allowed_signers": "gone"})
    assert (await follower.look()).revision is None
    assert "see git.verify.allowed_signers" in follower.problem()


async def test_what_git_may_not_say_is_let_through_by_the_local_file(
    follower: Follower, remote: Remote
) -> None:
    """The rules themselves are in `spec/test_rights.py`."""
    remote.keys()
    verify = {"allowed_signers": str(remote.signers)}
    commit = remote.put("version: 1\nactive: null\nmodels: {m: {source: ./here}}\n", by="ann")
    follower.says(verify=verify, allow=["skills"])
    assert (await follower.look()).revision is None
    assert "git:lmx.yaml:3:14: models.m.source: a file from Git may not" in follower.problem()
    follower.says(verify=verify, allow=["skills", "local_paths"])
    assert (await follower.look()).revision == commit


# --- without the network, and over a restart ---------------------------------------------------------


async def test_offline_what_was_taken_runs_on_also_after_a_restart(
    follower: Follower, remote: Remote
) -> None:
    taken = (await follower.look()).revision
    content = follower.source.read()
    remote.offline()
    view = await follower.look()
    assert view.failed is not None
    assert view.failed.reason == "GitUnreachable"
    since = view.failed.since
    assert (view.revision, follower.name()) == (taken, "first")
    follower.start(ran=content.data)
    await follower.source.restore()
    assert follower.source.read().content_digest == content.content_digest
    assert (await follower.look()).revision == taken
    remote.online()
    view = await follower.look()
    assert view.failed is None
    assert [kind for kind, _ in follower.events].count(EventType.SOURCE_RECOVERED) == 1
    assert since <= (view.last_checked or 0)


async def test_without_its_clone_the_local_file_does_not_take_over(
    follower: Follower, remote: Remote
) -> None:
    """What ran is in the history; falling back to the local file would be a change nobody asked for."""
    await follower.look()
    ran = follower.source.read().data
    assert layers.from_git(ran)
    for path in sorted((follower.folder / "state" / "git").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    remote.offline()
    follower.start(ran=ran)
    await follower.source.restore()
    with pytest.raises(SourceProblem, match="what ran goes on"):
        follower.source.read()
    remote.online()
    # The branch must still come after what ran: that, the notes beside the clone would have said.
    stop = await _look_raw(follower)
    assert stop == remote.head()
    assert follower.name() == "first"


async def _look_raw(follower: Follower) -> str | None:
    git = follower.source._git
    assert git is not None
    assert git.settings is not None
    await git._look(git.settings)
    follower.source.read()
    return follower.source.view().revision


async def test_a_damaged_clone_is_made_anew(follower: Follower, remote: Remote) -> None:
    await follower.look()
    clone = next((follower.folder / "state" / "git").glob("*/clone.git"))
    (clone / "HEAD").write_text("damage")
    newest = remote.put(GOOD + "name: second\n")
    assert (await follower.look()).revision == newest


async def test_a_clone_without_its_objects_is_made_anew(follower: Follower, remote: Remote) -> None:
    first = remote.head()
    await follower.look()
    clone = next((follower.folder / "state" / "git").glob("*/clone.git"))
    for path in (clone / "objects").rglob("*"):
        if path.is_file():
            path.chmod(stat.S_IRUSR | stat.S_IWUSR)
            path.write_bytes(b"damage")
    newest = remote.put(GOOD + "name: second\n")
    for _ in range(4):
        view = await follower.look()
        assert view.revision in (first, newest)
    assert (view.revision, view.failed) == (newest, None)


async def test_another_repository_starts_afresh_and_the_old_clone_goes(
    follower: Follower, remote: Remote, tmp_path: Path
) -> None:
    await follower.look()
    other = Remote(tmp_path / "other")
    commit = other.put(GOOD + "name: other\n")
    follower.says(url=other.url)
    assert (await follower.look()).revision == commit
    assert follower.name() == "other"
    assert len(list((follower.folder / "state" / "git").iterdir())) == 1


async def test_another_path_of_the_same_commit(follower: Follower, remote: Remote) -> None:
    remote.commit({"other.yaml": GOOD + "name: other\n"})
    commit = remote.push()
    await follower.look()
    assert follower.name() == "first"
    follower.says(path="other.yaml")
    assert (await follower.look()).revision == commit
    assert follower.name() == "other"
    follower.says(path="gone.yaml")
    view = await follower.look()
    assert (view.revision, follower.name()) == (commit, "other")
    assert "the commit has no file gone.yaml" in follower.problem()


async def test_verify_that_is_asked_for_later_says_so_of_what_runs(
    follower: Follower, remote: Remote
) -> None:
    unsigned = (await follower.look()).revision
    remote.keys()
    follower.says(verify={"allowed_signers": str(remote.signers)})
    view = await follower.look()
    assert (view.revision, view.verified) == (unsigned, False)
    assert follower.name() == "first"
    assert "it is not signed" in follower.problem()


async def test_a_local_file_that_is_broken_changes_nothing_until_it_is_mended(
    follower: Follower, remote: Remote
) -> None:
    await follower.look()
    whole = follower.file.read_text()
    follower.file.write_text(whole + "colour: red\n")
    with pytest.raises(SpecProblem, match="colour: unknown key"):
        follower.parsed()
    newest = remote.put(GOOD + "name: second\n")
    view = await follower.look()
    assert (view.revision != newest, view.refused is not None) == (True, True)
    follower.file.write_text(whole)
    assert (await follower.look()).revision == newest
    assert follower.name() == "second"


async def test_it_looks_by_itself_each_interval(follower: Follower, remote: Remote) -> None:
    follower.says(interval="1s")
    await follower.look()
    stop = asyncio.Event()
    task = asyncio.ensure_future(follower.source.run(lambda: None, stop))
    newest = remote.put(GOOD + "name: second\n")
    async with asyncio.timeout(LIMIT_S):
        while follower.source.view().head != newest:  # noqa: ASYNC110 - nobody tells a bystander
            await asyncio.sleep(0.02)
    stop.set()
    await task
    assert follower.name() == "second"


async def test_git_may_be_turned_off_in_the_local_file(follower: Follower) -> None:
    await follower.look()
    follower.file.write_text(GOOD + "name: local\n")
    assert follower.name() == "local"
    assert follower.source.view().kind == "file"


# --- what the repository could try -------------------------------------------------------------------


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
