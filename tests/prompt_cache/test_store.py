"""The store as an engine uses it: put, read, scan, touch, drop, on and off."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.prompt_cache import store as module
from appliance.prompt_cache.format import Array
from appliance.prompt_cache.register import Gone, Written
from appliance.prompt_cache.store import Store
from tests.prompt_cache.making import META, NAMESPACE, Shop, contents, path_of, payload, record, shop, text


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Shop]:
    with shop(tmp_path / "cache") as disk:
        yield disk


def test_what_was_put_is_read_again(disk: Shop) -> None:
    made, state = record(), record(kind="state", count=0)
    disk.put(made, state)
    found = disk.read([made.key, state.key])
    for one in (made, state):
        loaded = found[one.key]
        assert loaded is not None
        assert loaded.record == one
        assert loaded.meta == META
    assert contents(found[made.key].payload) == contents(payload(seed=made.key[0]))  # type: ignore[union-attr]


def test_news_tell_what_became_of_each_file_with_its_size(disk: Shop) -> None:
    made = record()
    disk.put(made)
    assert disk.seen == [Written(made.key, path_of(disk.root, made).stat().st_size)]
    assert disk.store.use().bytes == path_of(disk.root, made).stat().st_size
    assert disk.store.use().state == "ready"


def test_the_next_engine_finds_what_an_earlier_one_wrote(disk: Shop) -> None:
    records = [*text(5), record(kind="state", count=3)]
    disk.put(*records)
    disk.store.close(5)
    later = Store(disk.root, NAMESPACE, {})
    later.configure(2**30)
    try:
        found = later.scan()
    finally:
        later.close(5)
    assert {made.key for made, _, _ in found} == {made.key for made in records}
    assert {made for made, _, _ in found} == set(records)
    times = {made.key: used_at for made, _, used_at in found}
    assert [times[made.key] for made in text(5)] == sorted((times[r.key] for r in text(5)), reverse=True)
    assert all(nbytes == path_of(disk.root, made).stat().st_size for made, nbytes, _ in found)


def test_a_key_that_is_not_there_is_missing_in_answer_and_news(disk: Shop) -> None:
    made, other = record(), record(first=1)
    disk.put(made)
    path_of(disk.root, made).unlink()
    assert disk.read([made.key, other.key]) == {made.key: None, other.key: None}
    assert disk.news()[-2:] == [Gone(made.key, "missing"), Gone(other.key, "missing")]
    assert disk.store.use().bytes == 0


def test_requests_are_answered_in_the_order_they_came(disk: Shop) -> None:
    made = text(3)
    disk.put(*made)
    order: list[int] = []
    for number in range(20):
        disk.store.read([made[number % 3].key], lambda _, number=number: order.append(number))  # type: ignore[misc]
    disk.until(lambda: len(order) == 20)
    assert order == list(range(20))


def test_a_receiver_that_fails_costs_nobody_else_their_answer(
    disk: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    disk.store.read([], lambda _: 1 / 0)  # type: ignore[arg-type, return-value]
    assert disk.read([b"k" * 16]) == {b"k" * 16: None}
    assert "could not be handed over" in caplog.text


def test_dropped_files_are_deleted_and_not_in_the_news(disk: Shop) -> None:
    made, other = text(2)
    disk.put(made, other)
    before = list(disk.news())
    disk.store.drop([made.key])
    disk.settle()
    assert disk.has(made, other) == [False, True]
    assert disk.news() == before
    assert disk.store.use().bytes == path_of(disk.root, other).stat().st_size


def test_a_block_is_written_once_whoever_wrote_it(disk: Shop) -> None:
    made = record()
    disk.put(made)
    first = path_of(disk.root, made).stat().st_ino
    disk.store.close(5)
    later = Shop(disk.root)
    later.put(made)
    assert path_of(disk.root, made).stat().st_ino == first
    assert isinstance(later.seen[-1], Written)
    later.store.close(5)


# --- bounds -----------------------------------------------------------------------------------------


def hold(disk: Shop) -> threading.Event:
    """Keep the writer busy until the event is set."""
    begun, go_on = threading.Event(), threading.Event()

    def make() -> bytes:
        begun.set()
        assert go_on.wait(20)
        return b"{}"

    disk.store.save("sessions/slow.json", make, 0.0)
    assert begun.wait(20)
    return go_on


def test_the_queue_of_waiting_writes_is_bounded_by_bytes(disk: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MOST", 10_000)
    go_on = hold(disk)
    records = text(4)
    assert [disk.store.put(made, payload(4096), META) for made in records] == [True, True, False, False]
    assert disk.store.put(records[0], payload(4096), META)  # waits already
    go_on.set()
    disk.until(lambda: len(disk.news()) == 2)
    assert disk.store.put(records[2], payload(4096), META)
    disk.until(lambda: len(disk.news()) == 3)


def test_dropping_what_waits_takes_it_out_of_the_queue(disk: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MOST", 10_000)
    go_on = hold(disk)
    records = text(4)
    disk.store.put(records[0], payload(4096), META)
    disk.store.put(records[1], payload(4096), META)
    disk.store.drop([records[0].key])
    assert disk.store.put(records[2], payload(4096), META)
    go_on.set()
    disk.until(lambda: len(disk.news()) == 2)
    assert disk.has(*records) == [False, True, True, False]


def test_closing_writes_what_waits(disk: Shop) -> None:
    go_on = hold(disk)
    records = text(8)
    assert all(disk.store.put(made, payload(), META) for made in records)
    go_on.set()
    disk.store.close(20)
    assert all(disk.has(*records))
    assert not disk.store.put(record(first=5), payload(), META)


def test_closing_gives_up_what_it_has_no_time_for_and_leaves_no_half_file(disk: Shop) -> None:
    go_on = hold(disk)
    records = text(8)
    assert all(disk.store.put(made, payload(), META) for made in records)
    closing = threading.Thread(target=disk.store.close, args=(0.0,))
    closing.start()
    disk.until(lambda: disk.store._closing is not None)
    go_on.set()
    closing.join()
    assert not any(disk.has(*records))
    assert [n for n in disk.news() if isinstance(n, Gone)] == [Gone(made.key, "failed") for made in records]
    assert not list(disk.root.rglob("*.tmp"))


def test_after_closing_a_read_finds_nothing_and_says_so(disk: Shop) -> None:
    made = record()
    disk.put(made)
    disk.store.close(5)
    assert disk.read([made.key]) == {made.key: None}


class Buffer(bytearray):
    """Bytes whose end can be seen."""


def test_nothing_of_what_was_written_is_held_afterwards(disk: Shop) -> None:
    buffer = Buffer(4096)
    gone = weakref.ref(buffer)
    made = record()
    assert disk.store.put(made, {"x": Array("U8", (4096,), memoryview(buffer))}, META)
    del buffer
    disk.until(lambda: disk.news())
    disk.until(lambda: gone() is None)


def test_what_waits_is_kept_alive_until_it_is_written(disk: Shop) -> None:
    go_on = hold(disk)
    buffer = Buffer(bytes(range(256)) * 16)
    made = record()
    assert disk.store.put(made, {"x": Array("U8", (4096,), memoryview(buffer))}, META)
    del buffer
    go_on.set()
    disk.until(lambda: disk.news())
    loaded = disk.read([made.key])[made.key]
    assert loaded is not None
    assert bytes(loaded.payload["x"].data) == bytes(range(256)) * 16


# --- off --------------------------------------------------------------------------------------------


def test_off_nothing_is_read_or_written_and_files_stay(disk: Shop) -> None:
    made, other = text(2)
    disk.put(made)
    before = list(disk.news())
    disk.store.configure(0)
    assert not disk.store.put(other, payload(), META)
    assert disk.read([made.key]) == {made.key: None}
    assert disk.store.scan() == []
    assert disk.store.use().state == "off"
    assert disk.news() == before
    disk.store.configure(2**30)
    assert disk.read([made.key])[made.key] is not None


def test_off_from_the_start_not_even_a_folder_is_made(tmp_path: Path) -> None:
    quiet = Shop(tmp_path / "cache", quota=0)
    assert not quiet.store.put(record(), payload(), META)
    quiet.store.touch([record().key])
    quiet.store.drop([record().key])
    quiet.store.close(1)
    assert not (tmp_path / "cache").exists()


def test_turning_off_gives_up_what_waits(disk: Shop) -> None:
    go_on = hold(disk)
    records = text(2)
    assert all(disk.store.put(made, payload(), META) for made in records)
    disk.store.configure(0)
    assert disk.news() == [Gone(made.key, "failed") for made in records]
    go_on.set()


# --- damage -----------------------------------------------------------------------------------------


def test_a_damaged_file_is_a_miss_set_aside_and_counted(disk: Shop) -> None:
    made, other = text(2)
    disk.put(made, other)
    path = path_of(disk.root, made)
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    found = disk.read([made.key, other.key])
    assert found[made.key] is None
    assert found[other.key] is not None
    assert disk.news()[-1] == Gone(made.key, "damaged")
    assert disk.store.use().damaged == 1
    aside = path.parent.parent / "damaged" / path.name
    assert aside.read_bytes() == body
    assert aside.stat().st_mode & 0o777 == 0o600
    disk.put(made)
    assert disk.read([made.key])[made.key] is not None


def test_a_scan_sets_aside_what_is_cut_short_or_not_ours(disk: Shop) -> None:
    short, strange, moved, good = text(4)
    disk.put(short, strange, moved, good)
    path_of(disk.root, short).write_bytes(path_of(disk.root, short).read_bytes()[:-1])
    path_of(disk.root, strange).write_bytes(b"not at all")
    path_of(disk.root, moved).write_bytes(path_of(disk.root, good).read_bytes())
    assert [made for made, _, _ in disk.store.scan()] == [good]
    assert disk.store.use().damaged == 3
    assert {n.key for n in disk.news() if isinstance(n, Gone)} == {short.key, strange.key, moved.key}


def test_a_file_of_a_later_format_is_a_miss_and_stays(disk: Shop) -> None:
    made = record()
    disk.put(made)
    path = path_of(disk.root, made)
    path.write_bytes(path.read_bytes().replace(b'"lmx_format":"1"', b'"lmx_format":"2"'))
    assert disk.read([made.key]) == {made.key: None}
    assert disk.store.scan() == []
    assert path.exists()
    assert disk.store.use().damaged == 0


def test_few_damaged_files_are_kept_the_newest(tmp_path: Path) -> None:
    with shop(tmp_path / "cache") as disk:
        records = text(20)
        disk.put(*records)
        for made in records:
            path_of(disk.root, made).write_bytes(b"broken")
            assert disk.read([made.key])[made.key] is None
        kept = {path.stem for path in (disk.root / "1" / NAMESPACE / "damaged").iterdir()}
        assert kept == {made.key.hex() for made in records[-16:]}
        assert disk.store.use().damaged == 20


def test_damaged_files_take_a_hundredth_of_the_quota_at_most(tmp_path: Path) -> None:
    with shop(tmp_path / "cache", quota=1_000_000) as disk:
        records = text(8)
        disk.put(*records)
        for made in records:
            path_of(disk.root, made).write_bytes(b"x" * 4000)
            assert disk.read([made.key])[made.key] is None
        assert len(list((disk.root / "1" / NAMESPACE / "damaged").iterdir())) == 2


def test_a_cache_that_was_deleted_under_a_running_engine_begins_anew(disk: Shop) -> None:
    made, other = text(2)
    disk.put(made)
    shutil.rmtree(disk.root)
    disk.put(other)
    assert disk.has(made, other) == [False, True]
    assert disk.store.use().state == "ready"


def test_a_folder_name_cannot_lead_elsewhere(tmp_path: Path) -> None:
    for name in ("", "..", "a/b", "x" * 65):
        with pytest.raises(ValueError, match="name"):
            Store(tmp_path, name, {})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a niceness for one thread")
@pytest.mark.parametrize("before", [0, 19])
def test_the_writer_gives_way_to_other_threads(before: int) -> None:
    def run() -> None:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(before, os.getpriority(os.PRIO_PROCESS, thread)))
        least = os.getpriority(os.PRIO_PROCESS, thread)
        module.give_way()
        seen.append((least, os.getpriority(os.PRIO_PROCESS, thread)))

    seen: list[tuple[int, int]] = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    ((least, now),) = seen
    assert now == min(19, least + module.NICENESS)
