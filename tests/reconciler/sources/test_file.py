"""What reading the file yields, and what a user is told when there is nothing to read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from reconciler.loader.tree import MAX_BYTES
from reconciler.sources import file
from reconciler.sources.file import FileSource, SourceError


def message(path: Path) -> str:
    with pytest.raises(SourceError) as raised:
        FileSource(path).read()
    return str(raised.value)


def test_content_comes_with_its_digest_and_the_file_it_is_from(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "lmx.yaml"
    real.write_bytes(b"version: 1\n")
    link.symlink_to(real)
    content = FileSource(link).read()
    assert content.data == b"version: 1\n"
    assert content.content_digest == hashlib.sha256(b"version: 1\n").hexdigest()
    assert content.path == real.resolve()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "lmx.yaml"
    assert message(path) == f"{path} is not there; 'lmx init' writes one to start from"
    path.with_name("lmx.yml").touch()
    assert message(path) == f"{path} is not there; did you mean 'lmx.yml'?"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "no" / "lmx.yaml"
    remedy = "name the file with -f, or set LMX_FILE"
    assert message(path) == f"{path} is not there: {path.parent} is no folder; {remedy}"


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    assert message(tmp_path) == f"{tmp_path} is a folder; name the file in it, like {tmp_path}/lmx.yaml"


def test_a_link_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lmx.yaml"
    path.symlink_to("gone.yaml")
    remedy = "restore it, or point the link elsewhere"
    assert message(path) == f"{path} is a link to gone.yaml, which is not there; {remedy}"


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "lmx.yaml").symlink_to("lmx.yaml")
    assert message(tmp_path / "lmx.yaml").endswith("is a link that leads back to itself; point it at a file")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read anything, so the refusal is made here."""
    path = tmp_path / "lmx.yaml"

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(file.os, "open", refuse)
    assert message(path) == f"{path} may not be read by this user; try: chmod u+r {path}"


def test_a_file_of_five_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "lmx.yaml"
    path.write_bytes(b"#" * 5_000_000)
    assert message(path) == f"{path} has 5000000 bytes; at most {MAX_BYTES} are read. Is it the right file?"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lmx.yaml"
    os.mkfifo(path)
    assert message(path) == f"{path} cannot be read: is no regular file; name a regular file"


def test_an_empty_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that truncates and then writes is not taken for an emptied file."""
    path = tmp_path / "lmx.yaml"
    path.write_bytes(b"a: 1\n")
    source = FileSource(path)
    source.read()
    path.write_bytes(b"")
    monkeypatch.setattr(file.time, "sleep", lambda _: path.write_bytes(b"a: 2\n"))
    assert source.read().data == b"a: 2\n"


def test_an_emptied_file_is_content_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "lmx.yaml"
    path.write_bytes(b"a: 1\n")
    source = FileSource(path)
    source.read()
    path.write_bytes(b"")
    assert source.read().data == b""
