"""Log lines as a machine reads them, as a person does, and what happens when nobody can take them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from appliance import logs
from appliance.logs import Logs, fields


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    yield
    root.setLevel(before)


def written(folder: Path, style: logs.Style | None, *lines: tuple[Any, ...], **more: Any) -> str:
    path = folder / "log"
    with path.open("wb") as stream:
        found = Logs(style, stream.fileno())
        try:
            for line in lines:
                logging.getLogger("lmx.test").warning(*line, **more)
        finally:
            found.close()
    return path.read_text(encoding="utf-8")


def test_a_json_line_says_when_how_bad_who_what_and_its_own_fields(tmp_path: Path) -> None:
    text = written(
        tmp_path, "json", ("%s is\nready", "demo"), extra=fields(model="demo", tokens=3, step=None)
    )
    assert text.count("\n") == 1
    line = json.loads(text)
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "lmx.test",
        "msg": "demo is\nready",
        "model": "demo",
        "tokens": 3,
    }


def test_a_field_cannot_stand_in_for_what_every_line_has(tmp_path: Path) -> None:
    line = json.loads(written(tmp_path, "json", ("true words",), extra=fields(msg="forged", level="none")))
    assert (line["msg"], line["level"]) == ("true words", "warning")


def test_an_error_is_one_line_with_its_traceback(tmp_path: Path) -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        text = written(tmp_path, "json", ("failed",), exc_info=True)
    assert text.count("\n") == 1
    assert "ValueError: boom" in json.loads(text)["error"]


class Wordless:
    def __str__(self) -> str:
        raise ValueError("no words")


def test_a_line_that_cannot_be_put_into_words_does_not_end_its_author(tmp_path: Path) -> None:
    text = written(tmp_path, "json", ("hello",), extra=fields(odd=Wordless()))
    assert "cannot be written" in json.loads(text)["msg"]
    assert "test_logs.py" in json.loads(text)["msg"]
    line = json.loads(
        written(tmp_path, "json", ("hello",), extra=fields(path=Path("/x"), share=float("nan")))
    )
    assert (line["path"], line["share"]) == ("/x", None)


def test_what_is_not_a_terminal_is_json_unless_said_otherwise(tmp_path: Path) -> None:
    assert json.loads(written(tmp_path, None, ("hello",)))["msg"] == "hello"
    assert written(tmp_path, "text", ("hello",)).endswith(" lmx.test hello\n")


def test_a_terminal_gets_text() -> None:
    ours, theirs = os.openpty()
    try:
        found = Logs(None, theirs)
        logging.getLogger("lmx.test").warning("hello")
        found.close()
        assert os.read(ours, 4096).decode().rstrip().endswith("lmx.test hello")
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_reader_that_stands_still_holds_up_nobody_and_is_told_what_it_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "WAITING", 100)
    reader, writer = os.pipe()
    found = Logs("json", writer)
    log = logging.getLogger("lmx.test")
    sent = 5000  # a pipe holds 64 KiB, a line has 100 bytes: far more than fits
    for number in range(sent):
        log.warning("line %05d", number)
    with ThreadPoolExecutor(1) as pool, open(reader, encoding="utf-8") as stream:
        read = pool.submit(lambda: [json.loads(line) for line in stream])
        found.close(within=30.0)
        os.close(writer)
        lines = read.result(30)
    missed = sum(int(line["msg"].split()[0]) for line in lines if "could not be written" in line["msg"])
    arrived = [line["msg"] for line in lines if line["msg"].startswith("line ")]
    assert len(arrived) < 2000
    assert arrived == sorted(arrived)
    assert len(arrived) + missed == sent


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    file = os.open("/dev/full", os.O_WRONLY)
    try:
        found = Logs("json", file)
        for number in range(10):
            logging.getLogger("lmx.test").warning("line %d", number)
        found.close()
    finally:
        os.close(file)


def test_closing_does_not_wait_for_a_reader_that_stands_still() -> None:
    reader, writer = os.pipe()
    found = Logs("text", writer)
    for number in range(3000):
        logging.getLogger("lmx.test").warning("line %05d", number)
    found.close(within=0.1)
    assert not [h for h in logging.getLogger().handlers if isinstance(h, logs._Handler)]
    os.close(reader)  # the thread's write fails and it goes on to the end of its lines
    found._thread.join(10)
    os.close(writer)
