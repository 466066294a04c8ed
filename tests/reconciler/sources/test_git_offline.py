"""Without the network, over a restart, and with a clone that is damaged: what was taken runs on."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from reconciler.events import EventType
from reconciler.gate import SourceProblem, SpecProblem
from reconciler.loader import layers
from tests.gitops.follower import GOOD, LIMIT_S, Follower
from tests.gitops.remote import Remote, needs_git

pytestmark = [pytest.mark.anyio, needs_git]


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


async def test_a_fault_of_our_own_in_a_look_is_told_and_the_next_look_goes_on(
    follower: Follower, remote: Remote
) -> None:
    class Broken(list[tuple[EventType, str]]):
        def append(self, _: tuple[EventType, str]) -> None:
            raise RuntimeError("the store is gone")

    follower.events = Broken()
    failed = (await follower.look()).failed
    assert failed is not None
    assert (failed.reason, failed.message) == ("InternalError", "RuntimeError: the store is gone")
    follower.events = []
    view = await follower.look()
    assert (view.revision, view.failed) == (remote.head(), None)
