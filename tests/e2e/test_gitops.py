"""A machine that follows a Git repository, with real git: what is pushed is what runs, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.machine import DEMO, MINI, ROOT, Machine, free_port
from tests.gitops.remote import Remote, needs_git

pytestmark = needs_git
WIDE = {"context": 8192, "prefill_chunk": 65_536}  # 1.1 GiB of workspace


def served(**changes: Any) -> str:
    """A file of the repository; the model itself is the local file's: a path may not come from Git."""
    return yaml.safe_dump({"version": 1, "active": "mini", "models": {"mini": {"context": 512}}, **changes})


class Followed:
    """A machine and the repository it follows; looks happen when the test asks for them."""

    def __init__(self, folder: Path) -> None:
        self.remote, self.machine = Remote(folder / "remote"), Machine(folder)
        self.remote.keys()
        verify = {"allowed_signers": str(self.remote.signers)}
        self.git: dict[str, Any] = {"url": self.remote.url, "interval": "1h", "verify": verify}
        self.mini = {"source": str(MINI), "sampling": {"temperature": 0}, "concurrency": 4}

    def local(self, **git: Any) -> dict[str, Any]:
        return self.machine.spec(
            active=None,
            models={"mini": self.mini, "huge": {"source": str(DEMO), **WIDE}},
            git={**self.git, **git},
            memory={"budget": "1GiB"},  # so that what is too much is so on any machine
        )

    def put(self, text: str, *, by: str | None = "ann") -> str:
        return self.remote.put(text, by=by)

    def look(self) -> dict[str, Any]:
        """The status after a look at the remote that began after this call."""
        before = time.time()
        assert self.machine.call("POST", "/admin/reconcile")[0] == 200
        return self.until_checked(before)

    def until_checked(self, after: float) -> dict[str, Any]:
        return self.machine.until(lambda s: (s["source"]["last_checked"] or 0) > after)

    def runs(self, commit: str, name: str) -> dict[str, Any]:
        return self.machine.until(
            lambda s: s["source"]["revision"] == commit and s["name"] == name and s["summary"] == "Ready"
        )

    def condition(self, kind: str) -> dict[str, Any]:
        return self.machine.condition(kind)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    made = Followed(tmp_path_factory.mktemp("gitops"))
    made.put(served(name="first"))
    made.machine.up(made.local(), wait=False)
    made.machine.until(lambda s: s["name"] == "first" and s["summary"] == "Ready")
    yield made
    made.machine.close()


def test_status_tells_the_commit_its_signer_and_the_look(up: Followed) -> None:
    commit = up.put(served(name="second"))
    up.look()
    source = up.runs(commit, "second")["source"]
    assert source == {
        "kind": "git",
        "path": "lmx.yaml",
        "url": up.remote.url,
        "ref": "main",
        "revision": commit,
        "head": commit,
        "verified": True,
        "signer": "ann@fleet",
        "last_checked": source["last_checked"],
    }
    assert up.condition("SourceReady")["status"] == "True"
    assert up.condition("SourceVerified")["message"] == f"{commit[:12]} is signed by ann@fleet"
    events = [event["type"] for event in up.machine.status()["events"]]
    assert "CommitTaken" in events


def test_a_signal_looks_as_well(up: Followed) -> None:
    commit = up.put(served(name="hung up"))
    assert up.machine.process is not None
    up.machine.process.send_signal(signal.SIGHUP)
    up.runs(commit, "hung up")


def test_a_commit_that_is_not_valid_is_told_with_its_line_and_does_nothing(up: Followed) -> None:
    kept = up.put(served(name="kept"))
    up.look()
    up.runs(kept, "kept")
    bad = up.put("version: 1\nactive: mini\nmodels: {mini: {contxt: 1}}\n")
    status = up.look()
    assert (status["source"]["revision"], status["source"]["head"]) == (kept, bad)
    message = (
        f"commit {bad[:12]}: git:lmx.yaml:3:17: models.mini.contxt: unknown key (did you mean 'context'?)"
    )
    status = up.machine.until(lambda s: (s["last_attempted"] or {})["outcome"] == "rejected")
    assert status["last_attempted"]["message"] == message
    for kind in ("Synced", "ConfigAccepted", "SourceReady"):
        found = up.condition(kind)
        assert found["status"] == "False"
        assert message in found["message"]
    assert up.condition("Stalled")["status"] == "True"
    assert up.machine.answer("hello")
    up.put(served(name="mended"))
    up.look()
    up.runs(up.remote.head(), "mended")
    assert up.condition("ConfigAccepted")["status"] == "True"


def test_an_unsigned_commit_is_told_and_does_nothing(up: Followed) -> None:
    kept = up.put(served(name="signed"))
    up.look()
    up.runs(kept, "signed")
    bad = up.put(served(name="unsigned"), by=None)
    up.look()
    up.machine.until(lambda _: up.condition("SourceVerified")["status"] == "False")
    assert "it is not signed" in up.condition("SourceVerified")["message"]
    assert up.condition("Synced")["reason"] == "NotVerified"
    assert up.machine.status()["last_attempted"]["content_digest"] == bad
    assert up.machine.status()["name"] == "signed"
    up.put(served(name="signed on top"))
    up.look()
    up.runs(up.remote.head(), "signed on top")


def test_offline_and_restarted_it_serves_the_commit_it_had(up: Followed) -> None:
    commit = up.put(served(name="before the outage"))
    up.look()
    up.runs(commit, "before the outage")
    generation = up.machine.status()["generation"]
    up.remote.offline()
    up.machine.kill()
    up.machine.up(wait=False)
    status = up.runs(commit, "before the outage")
    assert status["generation"] == generation
    up.machine.until(lambda _: up.condition("SourceReady")["status"] == "False")
    found = up.condition("SourceReady")
    assert found["reason"] == "GitUnreachable"
    assert found["message"].startswith("since ")
    assert found["message"].endswith(f"; {commit[:12]} runs on")
    assert up.condition("Synced")["status"] == "True"
    assert up.machine.answer("hello")
    up.remote.online()
    after = time.time()
    up.look()
    up.until_checked(after)
    up.machine.until(lambda _: up.condition("SourceReady")["status"] == "True")


def test_what_the_local_file_does_not_let_is_refused_by_name(up: Followed) -> None:
    text = yaml.safe_dump({"version": 1, "active": "mini", "models": {"mini": {"template": {"file": "x"}}}})
    up.put(text)
    up.look()
    up.machine.until(lambda _: up.condition("SourceReady")["status"] == "False")
    assert (
        "models.mini.template.file: a file from Git may not name a file of this machine"
        in (up.condition("SourceReady")["message"])
    )
    up.put(served(name="last"))
    up.look()
    up.runs(up.remote.head(), "last")


def checked(up: Followed, folder: Path) -> tuple[int, str]:
    """`ci/check.sh` of the example, on a repository of one host."""
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    (folder / "fleet.yaml").write_text(f"machines:\n  studio-01: http://127.0.0.1:{up.machine.port}\n")
    done = subprocess.run(
        ["sh", str(folder / "ci" / "check.sh")],
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_example_s_check_says_what_the_machine_would_do(up: Followed, tmp_path: Path) -> None:
    """As CI runs it, against a machine that follows Git: its local file has the model, the host names it."""
    up.put(served(name="for ci"))
    up.look()
    up.runs(up.remote.head(), "for ci")
    shutil.copytree(ROOT / "examples" / "fleet" / "ci", tmp_path / "ci")
    (tmp_path / ".git").mkdir()
    (tmp_path / "base.yaml").write_text("version: 1\nactive: mini\nmodels: {mini: {source: lmx/mini}}\n")
    host = tmp_path / "hosts" / "studio-01.yaml"
    host.parent.mkdir()
    same = yaml.safe_dump({"extends": "../base.yaml", "name": "for ci", "models": {"mini": {"context": 512}}})
    host.write_text(same)
    status, said = checked(up, tmp_path)
    assert status == 0, said
    assert "hosts/studio-01.yaml is valid" in said
    assert "models.mini" in said  # another source: a new engine
    (tmp_path / "base.yaml").write_text("version: 1\nactive: mini\nmodels: {mini: {source: ./mini}}\n")
    status, said = checked(up, tmp_path)
    assert status == 1, said
    assert "models.mini.source: a file from Git may not name a folder of this machine" in said
    host.write_text(same + "colour: red\n")
    assert checked(up, tmp_path)[0] == 1


def test_a_plan_against_a_machine_that_does_not_answer_is_an_error(up: Followed, tmp_path: Path) -> None:
    (tmp_path / "lmx.yaml").write_text("version: 1\nactive: null\nmodels: {}\n")
    words = ["plan", "-f", str(tmp_path / "lmx.yaml"), "--against", f"http://127.0.0.1:{free_port()}"]
    done = subprocess.run(
        [sys.executable, "-m", "appliance.cli", *words], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1
    assert "nothing answers" in done.stderr.lower() or "no appliance" in done.stderr.lower(), done.stderr


def test_a_commit_that_cannot_fit_is_told_before_anything_is_drained(up: Followed) -> None:
    """It is valid, so it is the commit that counts; what answered before answers on."""
    up.put(served(name="fits"))
    up.look()
    before = up.runs(up.remote.head(), "fits")
    pid = before["models"]["mini"]["pid"]
    commit = up.put(served(name="too much", active="huge"))
    up.look()
    up.machine.until(lambda s: s["source"]["revision"] == commit and s["name"] == "too much")
    up.machine.until(
        lambda _: up.condition("Synced")["status"] == "False" and not up.machine.status()["plan"]
    )
    assert up.condition("Synced")["reason"] == "InsufficientMemory"
    assert up.machine.answer("hello")
    assert up.machine.status()["models"]["mini"]["pid"] == pid
    up.put(served(name="fits again"))
    up.look()
    assert up.runs(up.remote.head(), "fits again")["models"]["mini"]["pid"] == pid
