"""template.file: what can be read is told by a digest of its text, what cannot in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.hub import chat_template, files

DEMO = "builtin:lmx-demo"


def test_the_text_is_found_from_the_folder_of_the_spec(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    assert chat_template.read("./chat.jinja", tmp_path) == "{{ messages }}"
    assert chat_template.read(None, tmp_path) is None
    found = files.find(DEMO, base=tmp_path, template="chat.jinja")
    assert found.state == "present"
    assert found.template == chat_template.digest("{{ messages }}")


def test_another_text_is_another_digest_and_another_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text("one")
    one = files.find(DEMO, base=tmp_path, template="chat.jinja")
    path.write_text("two")  # as long as before
    two = files.find(DEMO, base=tmp_path, template="chat.jinja")
    plain = files.find(DEMO, base=tmp_path)
    assert len({one.template, two.template, plain.template}) == 3
    assert len({one.fingerprint, two.fingerprint, plain.fingerprint}) == 3
    assert plain.template == chat_template.digest(None) == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"caf\xe9x", "is not UTF-8: invalid continuation byte at byte 3"),
        (b"x" * (chat_template.LARGEST + 1), f"at most {chat_template.LARGEST} are read"),
    ],
)
def test_a_file_that_is_no_template_is_broken_in_words(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "chat.jinja").write_bytes(content)
    found = files.find(DEMO, base=tmp_path, template="chat.jinja")
    assert (found.state, found.permanent) == ("broken", True)
    assert found.message is not None
    assert found.message.startswith("template.file: ")
    assert words in found.message
    with pytest.raises(chat_template.BadTemplate):
        chat_template.read("chat.jinja", tmp_path)


def test_a_folder_is_no_template(tmp_path: Path) -> None:
    found = files.find(DEMO, base=tmp_path, template=".")
    assert "is not a file" in (found.message or "")


def test_a_file_that_comes_later_is_found(tmp_path: Path) -> None:
    assert files.find(DEMO, base=tmp_path, template="chat.jinja").state == "broken"
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    assert files.find(DEMO, base=tmp_path, template="chat.jinja").state == "present"
