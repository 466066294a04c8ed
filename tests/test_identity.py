"""A key's hash is found again after a restart, and tells nobody the key."""

from __future__ import annotations

import stat
from hashlib import blake2b
from pathlib import Path

from appliance import identity


def test_the_same_key_has_the_same_name_after_a_restart_and_another_elsewhere(tmp_path: Path) -> None:
    here, there = tmp_path / "a", tmp_path / "b"
    here.mkdir()
    there.mkdir()
    first = identity.load(here)
    assert identity.load(here).of("sk-1") == first.of("sk-1") != first.of("sk-2")
    assert identity.load(there).of("sk-1") != first.of("sk-1")
    assert len(first.of("sk-1")) == 32
    assert first.of("sk-1") != blake2b(b"sk-1", digest_size=16).hexdigest()
    assert first.of(None) == first.of("") == ""
    assert first.of("\udc80")  # what a header may hold


def test_the_secret_is_for_this_user_alone_and_whole(tmp_path: Path) -> None:
    identity.load(tmp_path)
    file = tmp_path / identity.FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [identity.FILE]
    file.chmod(0o644)
    kept = identity.load(tmp_path).of("sk-1")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_bytes(b"cut off")
    assert identity.load(tmp_path).of("sk-1") != kept
    assert len(file.read_bytes()) == identity.SIZE
