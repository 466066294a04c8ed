"""A machine that follows a Git repository, with real git: what is pushed is what runs, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.machine import MINI, Machine
from tests.gitops.remote import Remote, needs_git

pytestmark = needs_git


def served(**changes: Any) -> str:
    """A file of the repository; the model itself is the local file's: a path may not come from Git."""
    return yaml.safe_dump({"version": 1, "active": "mini", "models": {"mini": {"context": 512}}, **changes})


class Followed:
    """A machine and the repository it follows; the look happens when the test asks for it."""

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        self.remote, self.machine = Remote(folder / "remote"), Machine(folder)
        self.remote.keys()
        git: dict[str, Any] = {"url": self.remote.url, "interval": "1h"}
        if verify:
            git["verify"] = {"allowed_signers": str(self.remote.signers)}
        mini = {"source": str(MINI), "sampling": {"temperature": 0}, "concurrency": 4}
        self.local = self.machine.spec(active=None, models={"mini": mini}, git=git)

    def put(self, text: str, *, by: str | None = "ann") -> str:
        return self.remote.put(text, by=by)

    def look(self) -> dict[str, Any]:
        """The status after a look at the remote that began after this call."""
        before = time.time()
        assert self.machine.call("POST", "/admin/reconcile")[0] == 200
        return self.machine.until(lambda s: (s["source"]["last_checked"] or 0) > before)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    made = Followed(tmp_path_factory.mktemp("gitops"))
    made.put(served())
    made.machine.up(made.local)
    yield made
    made.machine.close()


def runs(up: Followed, commit: str) -> dict[str, Any]:
    return up.machine.until(lambda s: s["source"]["revision"] == commit and s["summary"] == "Ready")


def test_what_is_pushed_runs(up: Followed) -> None:
    commit = up.put(served(name="second"))
    up.look()
    status = runs(up, commit)
    print(status["source"], status["conditions"])
    assert status["name"] == "second"
