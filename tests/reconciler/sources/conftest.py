from __future__ import annotations

from pathlib import Path

import pytest

from tests.gitops.follower import GOOD, Follower
from tests.gitops.remote import Remote


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    made = Remote(tmp_path / "remote")
    made.put(GOOD + "name: first\n")
    return made


@pytest.fixture
def follower(tmp_path: Path, remote: Remote) -> Follower:
    return Follower(tmp_path, remote)
