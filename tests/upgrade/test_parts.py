"""What an upgrade is made of, piece by piece: lines with open files, kept sockets, and whose the state is."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import profiles
from appliance.custody import Custody
from appliance.holder.lines import LONGEST, Closed, Lines, Malformed, Message
from appliance.holder.move import in_words
from appliance.holder.place import Place, Taken
from appliance.holder.sockets import Sockets
from appliance.lock import Locked, StateLock
from reconciler.events import Event, EventType
from reconciler.history import FORMAT, History, TooNew

HOLDER = "import sys; from appliance.lock import StateLock; from pathlib import Path; import time\n"
HOLDER += "lock = StateLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"


@pytest.fixture
def pair() -> Iterator[tuple[Lines, Lines]]:
    one, other = (Lines(sock) for sock in socket.socketpair())
    yield one, other
    one.close()
    other.close()


def heard(lines: Lines, count: int) -> list[tuple[Message, list[int]]]:
    """The next messages; what is needed has been sent already."""
    found: list[tuple[Message, list[int]]] = []
    while len(found) < count:
        found += lines.read()
    return found


def test_open_files_come_with_the_message_that_they_belong_to(pair: tuple[Lines, Lines]) -> None:
    one, other = pair
    with contextlib.ExitStack() as closed:
        ours = [os.memfd_create(f"file {n}") if hasattr(os, "memfd_create") else -1 for n in range(3)]
        if -1 in ours:
            pytest.skip("needs memfd")
        for number in ours:
            closed.callback(os.close, number)
        one.send({"say": "none"})
        one.send({"say": "two"}, ours[:2])
        one.send({"say": "one"}, ours[2:])
        found = heard(other, 3)
        for _, fds in found:
            for fd in fds:
                closed.callback(os.close, fd)
        assert [(words["say"], len(fds)) for words, fds in found] == [("none", 0), ("two", 2), ("one", 1)]
        got = [fd for _, fds in found for fd in fds]
        assert all(os.path.sameopenfile(mine, theirs) for mine, theirs in zip(ours, got, strict=True))
        assert not any(os.get_inheritable(fd) for fd in got)


@pytest.mark.parametrize("bad", [b"{\n", b"[]\n", b'{"fds": 1}\n', b'{"fds": "x"}\n', b"\xff\n"])
def test_what_is_no_message_is_told_apart_from_the_end(pair: tuple[Lines, Lines], bad: bytes) -> None:
    one, other = pair
    one.sock.send(bad)
    with pytest.raises(Malformed):
        other.read()


def test_a_line_without_an_end_is_not_gathered_for_ever(pair: tuple[Lines, Lines]) -> None:
    one, other = pair
    with pytest.raises(Malformed, match=f"more than {LONGEST}"):
        for _ in range(4):
            one.sock.send(b"x" * (LONGEST // 2))
            other.read()


def test_a_reader_who_never_reads_is_given_up_not_waited_for(pair: tuple[Lines, Lines]) -> None:
    one, _ = pair
    with pytest.raises(Closed, match="does not read"):
        for _ in range(10_000):
            one.send({"say": "x" * 1000})


def test_bytes_that_could_not_be_sent_at_once_come_whole_later(pair: tuple[Lines, Lines]) -> None:
    one, other = pair
    for number in range(600):
        one.send({"n": number, "pad": "x" * 1000})
    assert one.unsent
    found: list[tuple[Message, list[int]]] = []
    while len(found) < 600:
        found += other.read()
        one.flush()
    assert [words["n"] for words, _ in found] == list(range(600))


def test_a_port_stays_open_as_long_as_it_is_kept() -> None:
    kept = Sockets()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        kept.replace([{"host": "127.0.0.1", "port": port, "count": 1}], [os.dup(sock.fileno())])
    with socket.create_connection(("127.0.0.1", port), 5):
        pass
    with pytest.raises(ValueError, match="without its sockets"):
        kept.replace([{"host": "127.0.0.1", "port": port, "count": 1}], [])
    kept.replace([], [])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[int]:
    """Another process that has the lock of this folder."""
    StateLock(tmp_path).release()
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process.pid
        process.kill()


def event(text: str) -> Event:
    return Event(EventType.STARTED, text, 1.0)


def test_one_that_stands_by_writes_nothing_until_it_takes_over(tmp_path: Path, owner: int) -> None:
    with contextlib.closing(History(tmp_path / "history.db")) as first:
        first.add_event(event("first"))
        second = Custody(tmp_path, predecessor=owner)
        assert not second.owner
        second.history.add_event(event("while standing by"))
        first.add_event(event("the first goes on"))
        assert [e.message for e in first.events()] == ["first", "the first goes on"]
        assert [e.message for e in second.history.events()] == ["first", "while standing by"]
        os.kill(owner, 9)
        second.take()
        assert [e.message for e in first.events()] == ["first", "the first goes on", "while standing by"]
        assert [e.id for e in second.history.events()] == [1, 2, 3]
        second.close()


def test_a_folder_of_a_stranger_is_no_predecessors(tmp_path: Path, owner: int) -> None:
    with pytest.raises(Locked, match=f"process {owner}") as caught:
        Custody(tmp_path, predecessor=owner + 1)
    assert caught.value.pid == owner


def test_a_database_of_a_later_version_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    History(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={FORMAT + 1}")
    for opened in (History, History.copy):
        with pytest.raises(TooNew, match="written by a later LMX"):
            opened(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (FORMAT + 1,)
    assert [p.name for p in tmp_path.iterdir() if "damaged" in p.name] == []


def test_a_file_has_one_holder_and_its_socket_works_in_a_deep_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setenv("HOME", str(deep))
    here = os.getcwd()
    first, second = Place(tmp_path / "lmx.yaml"), Place(tmp_path / "lmx.yaml")
    with first.listen() as sock:
        with pytest.raises(Taken, match=f"process {os.getpid()}"):
            second.listen()
        with second.connect(5):
            sock.setblocking(True)
            sock.accept()[0].close()
    first.remember({"python": "/x", "profile": None})
    assert second.recall() == {"python": "/x", "profile": None}
    first.close()
    first.note.write_text("{", encoding="utf-8")
    assert second.recall() == {}
    assert os.getcwd() == here


@pytest.mark.parametrize("bad", ["", "..", "a/b", "-x", "a b", "x" * 65])
def test_a_profile_has_a_plain_name(bad: str) -> None:
    with pytest.raises(profiles.ProfileError, match="no name of a profile"):
        profiles.file(Path("lmx.yaml"), bad)


def test_a_profile_is_a_file_beside_the_other(tmp_path: Path) -> None:
    base = tmp_path / "lmx.yaml"
    assert profiles.existing(base, None) == profiles.existing(base, "base") == base
    (tmp_path / "lmx.night.yaml").touch()
    assert profiles.existing(base, "night") == tmp_path / "lmx.night.yaml"
    with pytest.raises(profiles.ProfileError, match="there are night"):
        profiles.existing(base, "noon")
    assert profiles.state(Path("/s"), "night") == Path("/s/profiles/night")


def test_an_outcome_is_told_in_a_sentence() -> None:
    last = {
        "kind": "upgrade",
        "result": "done",
        "drained_first": True,
        "from": {"version": "1.0"},
        "to": {"version": "1.1"},
    }
    assert in_words(last) == "upgrade from 1.0 to 1.1, drained first"
    switch = {"kind": "switch", "result": "failed", "reason": "no room", "from": {}, "to": {"profile": "x"}}
    assert in_words(switch) == "switch from base to x failed, what was there serves on: no room"
    assert "started again" in in_words({**json.loads(json.dumps(switch)), "result": "rolled_back"})
