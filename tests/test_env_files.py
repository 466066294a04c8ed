"""Secrets for a service: read from a file that nobody else may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.env_files import EnvFileError, read


def made(folder: Path, text: bytes, mode: int = 0o600) -> Path:
    path = folder / "secrets"
    path.write_bytes(text)
    path.chmod(mode)
    return path


def test_lines_comments_and_quotes(tmp_path: Path) -> None:
    text = b"# keys\n\nLMX_KEYS=\"one two\"\nexport HF_TOKEN='h=f'\nEMPTY=\nA = b # kept\n"
    assert read(made(tmp_path, text)) == {
        "LMX_KEYS": "one two",
        "HF_TOKEN": "h=f",
        "EMPTY": "",
        "A": "b # kept",
    }


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_one_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = made(tmp_path, b"A=hidden\n", mode)
    with pytest.raises(EnvFileError, match=f"chmod 600 {path}") as caught:
        read(path)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"A=1\nhidden\n", ":2: write it as NAME=VALUE"),
        (b"A=hidden\nA=2\n", ":2: A is there twice"),
        (b"A=\xff\n", "not UTF-8"),
        (b"A=" + b"hidden" * 20_000, "over 65536 bytes"),
        (b"A=hid\0den\n", "zero byte"),
    ],
)
def test_what_cannot_be_read_is_told_without_values(tmp_path: Path, text: bytes, words: str) -> None:
    with pytest.raises(EnvFileError, match=words) as caught:
        read(made(tmp_path, text))
    assert "hidden" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(EnvFileError, match="cannot be read: No such file"):
        read(tmp_path / "none")
    with pytest.raises(EnvFileError, match="cannot be read: Is a directory"):
        read(tmp_path)
