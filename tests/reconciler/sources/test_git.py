"""Following a real repository with real git: what is taken, what is refused, and what stays."""

from __future__ import annotations

import pytest

from reconciler.events import EventType
from tests.gitops.follower import GOOD, Follower
from tests.gitops.remote import Remote, needs_git

pytestmark = [pytest.mark.anyio, needs_git]


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
