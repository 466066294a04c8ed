"""Named conversations outlive their engine, and what they hold gives way last."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.prompt_cache import folder, sessions
from appliance.prompt_cache.format import Record
from appliance.prompt_cache.sessions import Named, Session, drop_on_disk, on_disk
from tests.prompt_cache.making import NAMESPACE, Shop, record, shop, text
from tests.prompt_cache.test_quota import ROOM, SIZE, Clock

NOW = 2_000_000_000.0


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def disk(tmp_path: Path, clock: Clock) -> Iterator[Shop]:
    with shop(tmp_path / "cache", quota=ROOM, clock=clock) as disk:
        yield disk


def files(root: Path, namespace: str = NAMESPACE) -> list[Path]:
    return sorted(path for path in (root / folder.LAYOUT / namespace / "sessions").glob("*.json"))


def name(disk: Shop, title: str, records: list[Record], now: float = NOW, scope: str = "") -> Named:
    named = Named(disk.store)
    named.touch(title, scope, records[-1].key, 256 * len(records), now)
    disk.until(lambda: (disk.root / "1" / NAMESPACE / "sessions" / sessions.file_name(title, scope)).exists())
    return named


def test_a_session_is_found_by_the_next_engine_and_without_one(disk: Shop, clock: Clock) -> None:
    records = text(3)
    disk.put(*records)
    name(disk, "refactoring 🦆", records, scope="ab12")
    disk.store.close(5)
    wanted = Session(
        "refactoring 🦆", "ab12", records[-1].key, 768, NOW, "daily", tuple(made.key for made in records)
    )
    with shop(disk.root, quota=ROOM, clock=clock) as later:
        named = Named(later.store)
        named.load()
        assert named.list() == [wanted]
    (found,) = on_disk(disk.root, NOW)
    assert found.session == wanted
    assert found.nbytes == 3 * SIZE
    assert [stat.st_mode & 0o777 for stat in (path.stat() for path in files(disk.root))] == [0o600]


@pytest.mark.parametrize("title", ["", "../../etc/passwd", "a/b\0c", "\ud800", "x" * 256, "CON", "."])
def test_a_client_may_choose_any_name(disk: Shop, title: str) -> None:
    disk.put(*text(1))
    name(disk, title, text(1))
    assert [one.session.name for one in on_disk(disk.root, NOW)] == [title]
    assert len(files(disk.root)) == 1


def test_a_name_that_is_too_long_is_refused(disk: Shop) -> None:
    with pytest.raises(ValueError, match="256 characters"):
        Named(disk.store).touch("x" * 257, "", b"k" * 16, 1, NOW)


def test_the_same_name_of_two_callers_is_two_sessions(disk: Shop) -> None:
    disk.put(*text(2))
    name(disk, "chat", text(1), scope="a")
    name(disk, "chat", text(2), scope="b")
    found = [one.session for one in on_disk(disk.root, NOW)]
    assert {(session.scope, session.tokens) for session in found} == {("a", 256), ("b", 512)}


def test_many_touches_make_few_writes_and_the_last_is_written_on_close(disk: Shop) -> None:
    records = text(3)
    disk.put(*records)
    named = name(disk, "chat", records[:1])
    inode = files(disk.root)[0].stat().st_ino
    for number in range(100):
        named.touch("chat", "", records[-1].key, 600 + number, NOW + number)
    disk.settle()
    assert files(disk.root)[0].stat().st_ino == inode
    disk.store.close(5)
    (found,) = on_disk(disk.root, NOW + 1000)
    assert (found.session.tokens, found.session.used_at) == (699, NOW + 99)


def test_a_dropped_session_is_gone_at_once_and_for_good(disk: Shop, clock: Clock) -> None:
    disk.put(*text(2))
    named = name(disk, "chat", text(2))
    named.touch("other", "", text(1)[0].key, 256, NOW)
    named.touch("chat", "", text(2)[1].key, 512, NOW)  # waits to be written
    assert [session.name for session in named.drop("chat", None)] == ["chat"]
    assert [session.name for session in named.list()] == ["other"]
    disk.store.close(5)
    assert [one.session.name for one in on_disk(disk.root, NOW)] == ["other"]


def test_dropping_asks_for_name_and_scope(disk: Shop) -> None:
    named = Named(disk.store)
    for title, scope in (("a", "x"), ("a", "y"), ("b", "x")):
        named.touch(title, scope, text(1)[0].key, 256, NOW)
    assert named.drop("c", None) == []
    assert [(s.name, s.scope) for s in named.drop("a", "x")] == [("a", "x")]
    assert len(named.drop(None, "x")) == 1
    assert len(named.drop(None, None)) == 1


def test_the_least_recently_used_of_too_many_names_is_forgotten(
    disk: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST", 3)
    named = Named(disk.store)
    for number in range(5):
        named.touch(f"{number}", "", text(1)[0].key, 256, NOW + number)
    assert [session.name for session in named.list()] == ["4", "3", "2"]


# --- what they hold gives way last ----------------------------------------------------------------------


def test_a_named_sessions_files_give_way_last(disk: Shop, clock: Clock) -> None:
    chat = text(4)
    disk.put(*chat, record(parent=chat[1].key, start=512, kind="state", count=0))
    name(disk, "chat", chat)
    clock.pass_by(3600)
    for first in range(10_000, 10_000 + 12 * 256, 256):
        disk.put(record(first=first))
        clock.pass_by()
    assert disk.has(*chat, record(parent=chat[1].key, start=512, kind="state", count=0)) == [True] * 5


def test_so_they_do_for_another_models_engine(disk: Shop, clock: Clock) -> None:
    other = "fedcba9876543210" * 2
    chat = text(4)
    disk.put(*chat)
    name(disk, "chat", chat)
    clock.pass_by(3600)
    with shop(disk.root, quota=ROOM, clock=clock, namespace=other) as later:
        for first in range(0, 10 * 256, 256):
            later.put(record(first=first, namespace=other))
            clock.pass_by()
        assert disk.has(*chat) == [True] * 4


def test_a_dropped_or_long_unused_session_holds_nothing(disk: Shop, clock: Clock) -> None:
    chat, lost = text(4), text(4, first=5_000)
    disk.put(*chat)
    disk.put(*lost)
    named = name(disk, "chat", chat)
    name(disk, "lost", lost)
    named.drop("chat", None)
    disk.settle()
    clock.pass_by(3600)
    new = [record(first=first) for first in range(10_000, 10_000 + 6 * 256, 256)]
    disk.put(*new)
    assert disk.has(*chat, *lost) == [False] * 4 + [True] * 4
    clock.pass_by(sessions.PINNED_S)
    disk.store._shelf.counted = False  # counted anew every ten minutes
    disk.put(record(first=3))
    assert disk.has(*lost) == [True] * 3 + [False]


def test_even_named_sessions_give_way_when_there_is_nothing_else(disk: Shop, clock: Clock) -> None:
    old, new = text(5), text(5, first=5_000)
    disk.put(*old)
    name(disk, "old", old)
    clock.pass_by()
    disk.put(*new)
    name(disk, "new", new)
    clock.pass_by()
    disk.put(record(first=9))
    assert disk.has(*old, *new) == [True] * 4 + [False] + [True] * 5


# --- without an engine ------------------------------------------------------------------------------------


def fork(parent: Record, first: int) -> Record:
    return record(parent=parent.key, first=first, start=parent.start + 256)


def test_dropping_on_disk_deletes_what_no_other_text_shares(disk: Shop) -> None:
    chat = text(4)
    branch = fork(chat[1], 9_000)
    states = [record(parent=made.key, start=made.start + 256, kind="state", count=1) for made in chat]
    disk.put(*chat, branch, states[0], states[1], states[3])
    name(disk, "chat", chat)
    disk.store.close(5)
    (dropped,) = drop_on_disk(disk.root, "chat")
    assert dropped.session.name == "chat"
    assert disk.has(*chat, branch) == [True, True, False, False, True]
    assert disk.has(states[0], states[1], states[3]) == [True, True, False]
    assert on_disk(disk.root) == []


def test_dropping_on_disk_leaves_what_other_sessions_hold(disk: Shop) -> None:
    chat = text(4)
    disk.put(*chat)
    name(disk, "long", chat)
    name(disk, "short", chat[:2])
    disk.store.close(5)
    drop_on_disk(disk.root, "long")
    assert disk.has(*chat) == [True, True, False, False]
    drop_on_disk(disk.root, None)
    assert disk.has(*chat) == [False] * 4


def test_dropping_on_disk_is_of_the_models_and_scopes_that_were_meant(disk: Shop) -> None:
    disk.put(*text(2))
    name(disk, "chat", text(2), scope="a")
    disk.store.close(5)
    assert drop_on_disk(disk.root, "chat", models=["other"]) == []
    assert drop_on_disk(disk.root, "chat", scope="b") == []
    assert drop_on_disk(disk.root, "chat", scope="a", models=["daily"]) != []


SAID = {"name": "x", "scope": "", "model": "", "leaf": "00" * 16, "tokens": 1, "used_at": 0, "keys": []}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        json.dumps({"name": "x"}).encode(),
        json.dumps(SAID | {"name": 1}).encode(),
        json.dumps(SAID | {"leaf": "00"}).encode(),
        json.dumps(SAID | {"tokens": 1e999}).encode(),
        json.dumps(SAID).encode(),  # under a name that is not its own
    ],
)
def test_a_sessions_file_that_is_damaged_is_passed_over(disk: Shop, body: bytes) -> None:
    disk.put(*text(1))
    name(disk, "good", text(1))
    bad = files(disk.root)[0].parent / ("ab" * 16 + ".json")
    bad.write_bytes(body)
    os.mkfifo(bad.parent / ("cd" * 16 + ".json"))
    assert [one.session.name for one in on_disk(disk.root, NOW)] == ["good"]
    disk.store.scan()
    assert disk.store.use().state == "ready"


def test_a_time_in_the_future_counts_as_now(disk: Shop) -> None:
    disk.put(*text(1))
    name(disk, "chat", text(1), now=NOW + 10**8)
    assert on_disk(disk.root, NOW)[0].session.used_at == NOW


def test_no_cache_means_no_sessions(tmp_path: Path) -> None:
    assert on_disk(tmp_path / "nowhere") == []
    assert drop_on_disk(tmp_path / "nowhere", None) == []
