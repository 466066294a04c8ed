"""A log of our own: within its size, whole lines, and back again after somebody moved it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from appliance.log_file import LogFile


def test_it_goes_on_where_it_was_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "lmx.log"
    for line in (b"one\n", b"two\n"):
        log = LogFile(path)
        log.write(line)
        log.close()
    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_it_is_rotated_between_lines_and_few_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "lmx.log"
    log = LogFile(path, most=100, kept=2)
    for number in range(40):
        log.write(b"line %02d\n" % number)
    log.close()
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == ["lmx.log", "lmx.log.1", "lmx.log.2"]
    kept = b"".join((tmp_path / name).read_bytes() for name in reversed(names)).splitlines()
    assert kept == [b"line %02d" % number for number in range(40 - len(kept), 40)]
    assert all((tmp_path / name).stat().st_size <= 100 for name in names)
    assert len(kept) > 24


def test_a_line_longer_than_the_limit_is_kept_whole(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "lmx.log", most=10, kept=1)
    for line in (b"a" * 50 + b"\n", b"b" * 50 + b"\n"):
        log.write(line)
    log.close()
    assert (tmp_path / "lmx.log").read_bytes() == b"b" * 50 + b"\n"
    assert (tmp_path / "lmx.log.1").read_bytes() == b"a" * 50 + b"\n"


@pytest.mark.parametrize("fate", ["moved", "deleted", "replaced"])
def test_another_program_may_move_it(tmp_path: Path, fate: str) -> None:
    path = tmp_path / "lmx.log"
    log = LogFile(path)
    log.write(b"before\n")
    match fate:
        case "moved":
            path.rename(tmp_path / "elsewhere")
        case "deleted":
            path.unlink()
        case _:
            other = tmp_path / "other"
            other.write_bytes(b"theirs\n")
            os.replace(other, path)
    log.write(b"after\n")
    log.close()
    assert path.read_bytes().endswith(b"after\n")
    assert b"before" not in path.read_bytes()
