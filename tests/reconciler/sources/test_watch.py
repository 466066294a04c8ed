"""Each way in which a file comes to say something else is noticed, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from reconciler.sources import file
from reconciler.sources.file import FileSource
from reconciler.sources.places import places

pytestmark = pytest.mark.anyio

DEADLINE_S = 10.0  # far below the poll of a watch, so that what is tested is the event


class Watch:
    """A running watch, and what the file said at each change it told of."""

    def __init__(self, source: FileSource) -> None:
        self.source = source
        self.told: asyncio.Queue[str | None] = asyncio.Queue()
        self.stop = asyncio.Event()

    async def run(self) -> None:
        await self.source.watch(lambda: self.told.put_nowait(self.content()), self.stop)

    async def sees(self, content: str | None) -> None:
        """Wait until it tells of a change to `content`."""
        async with asyncio.timeout(DEADLINE_S):
            while await self.told.get() != content:
                pass

    def content(self) -> str | None:
        try:
            return self.source.path.read_text()
        except OSError:
            return None


@contextlib.asynccontextmanager
async def watching(path: Path, poll_s: float = 3600) -> AsyncIterator[Watch]:
    """A watch that is known to be awake: it has told of the change made before it began."""
    source = FileSource(path, poll_s=poll_s)
    kept = source.path.read_bytes()
    source.path.write_bytes(b"before the watch\n")
    source.read()
    source.path.write_bytes(kept)
    watch = Watch(source)
    task = asyncio.create_task(watch.run())
    try:
        await watch.sees(kept.decode())
        yield watch
    finally:
        watch.stop.set()
        await asyncio.wait_for(task, DEADLINE_S)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "lmx.yaml").write_text("a: 0\n")
    return tmp_path / "lmx.yaml"


def overwrite(path: Path) -> None:
    path.write_text("a: 1\n")


def rename_over(path: Path) -> None:
    new = path.with_name(".lmx.yaml.swp")
    new.write_text("a: 1\n")
    new.rename(path)


def delete_and_create(path: Path) -> None:
    path.unlink()
    path.write_text("a: 1\n")


def keep_a_backup(path: Path) -> None:
    """As vim saves: the old file moves away, a new one takes its name."""
    path.rename(path.with_name("lmx.yaml~"))
    path.write_text("a: 1\n")


def same_size_and_time(path: Path) -> None:
    status = path.stat()
    path.write_text("a: 1\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def link_in_its_place(path: Path) -> None:
    target = path.with_name("target.yaml")
    target.write_text("a: 1\n")
    link = path.with_name("link")
    link.symlink_to(target)
    link.rename(path)


@pytest.mark.parametrize(
    "save", [overwrite, rename_over, delete_and_create, keep_a_backup, same_size_and_time, link_in_its_place]
)
async def test_every_way_to_save_is_noticed(path: Path, save: Callable[[Path], None]) -> None:
    async with watching(path) as watch:
        save(path)
        await watch.sees("a: 1\n")
        overwrite_again = "a: 2\n"
        path.write_text(overwrite_again)
        await watch.sees(overwrite_again)


async def test_an_edit_through_the_target_of_a_link_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").mkdir()
    target = tmp_path / "elsewhere" / "target.yaml"
    target.write_text("a: 0\n")
    (tmp_path / "here" / "lmx.yaml").symlink_to("../elsewhere/target.yaml")
    async with watching(tmp_path / "here" / "lmx.yaml") as watch:
        target.write_text("a: 1\n")
        await watch.sees("a: 1\n")
        rename_over(target)
        target.write_text("a: 2\n")
        await watch.sees("a: 2\n")


async def test_a_folder_link_swapped_as_a_whole_is_noticed(tmp_path: Path) -> None:
    """As Kubernetes updates a mounted file: lmx.yaml -> ..data/lmx.yaml, and ..data moves on."""
    for number in (1, 2, 3):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "lmx.yaml").write_text(f"a: {number}\n")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "lmx.yaml").symlink_to("..data/lmx.yaml")
    async with watching(tmp_path / "lmx.yaml") as watch:
        for number in (2, 3):
            (tmp_path / "..tmp").symlink_to(f"..{number}")
            (tmp_path / "..tmp").rename(tmp_path / "..data")
            await watch.sees(f"a: {number}\n")
        (tmp_path / "..3" / "lmx.yaml").write_text("a: 4\n")
        await watch.sees("a: 4\n")


async def test_a_file_that_vanishes_and_comes_back_is_noticed(path: Path) -> None:
    async with watching(path) as watch:
        path.unlink()
        await watch.sees(None)
        path.write_text("a: 1\n")
        await watch.sees("a: 1\n")


async def test_a_folder_that_vanishes_and_comes_back_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    path = folder / "lmx.yaml"
    path.write_text("a: 0\n")
    async with watching(path) as watch:
        path.unlink()
        await watch.sees(None)
        for number in (1, 2):
            path.unlink(missing_ok=True)
            folder.rmdir()
            folder.mkdir()
            path.write_text(f"a: {number}\n")
            await watch.sees(f"a: {number}\n")


async def test_a_file_that_appears_after_the_start_is_noticed(tmp_path: Path) -> None:
    source = FileSource(tmp_path / "lmx.yaml", poll_s=3600)
    with pytest.raises(file.SourceError):
        source.read()
    (tmp_path / "lmx.yaml").write_text("a: 1\n")  # between the look and the watch
    watch = Watch(source)
    task = asyncio.create_task(watch.run())
    await watch.sees("a: 1\n")
    watch.stop.set()
    await asyncio.wait_for(task, DEADLINE_S)


async def test_an_emptied_file_is_noticed(path: Path) -> None:
    async with watching(path) as watch:
        path.write_text("")
        await watch.sees("")


async def test_a_save_in_two_halves_is_told_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch sees the truncated file first; what it tells of is the whole one."""
    real, looks = file._read, 0

    def halves(read: Path) -> bytes:
        nonlocal looks
        data = real(read)
        if data == b"a: 1\nb: 2\n":
            looks += 1
            return {1: b"", 2: b"a: 1\n"}.get(looks, data)
        return data

    async with watching(path) as watch:
        monkeypatch.setattr(file, "_read", halves)
        path.write_text("a: 1\nb: 2\n")
        await watch.sees("a: 1\nb: 2\n")
        assert looks >= 4
        path.write_text("end\n")
        await watch.sees("end\n")
        assert watch.told.empty()


async def test_a_touch_and_other_files_tell_nothing(path: Path) -> None:
    async with watching(path) as watch:
        path.touch()
        path.write_text("a: 0\n")
        path.with_name("other.yaml").write_text("x: 1\n")
        path.write_text("a: 1\n")
        await watch.sees("a: 1\n")
        assert watch.told.empty()


async def test_twenty_saves_in_a_second_end_in_the_last(path: Path) -> None:
    async with watching(path) as watch:
        for number in range(20):
            new = path.with_name("new")
            new.write_text(f"a: {number}\n")
            new.rename(path)
            await asyncio.sleep(0.05)  # the spacing is what is tested
        await watch.sees("a: 19\n")


async def test_what_events_do_not_tell_the_poll_finds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_watcher", lambda folders: None)
    monkeypatch.setattr(file, "POLL_WITHOUT_EVENTS_S", 0.01)
    async with watching(path) as watch:
        overwrite(path)
        await watch.sees("a: 1\n")


async def test_events_that_are_lost_are_made_up_for_by_the_poll(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    real = file._watcher
    monkeypatch.setattr(file, "_watcher", lambda folders: real({str(elsewhere)}))
    async with watching(path, poll_s=0.05) as watch:
        overwrite(path)
        await watch.sees("a: 1\n")


async def test_the_watch_ends_at_once_when_stopped_or_cancelled(path: Path) -> None:
    for cancel in (False, True):
        source, stop = FileSource(path), asyncio.Event()
        woke = asyncio.Event()
        source.read()
        path.write_text(f"cancel: {cancel}\n")
        task = asyncio.create_task(source.watch(woke.set, stop))
        await asyncio.wait_for(woke.wait(), DEADLINE_S)
        start = time.monotonic()
        if cancel:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not stop.is_set()
        else:
            stop.set()
            await task
        assert time.monotonic() - start < 2


async def test_a_save_is_told_within_250_ms(path: Path) -> None:
    """It takes about 80 ms; the rest is room for a busy machine."""
    async with watching(path) as watch:
        took = []
        for number in range(10):
            start = time.monotonic()
            path.write_text(f"n: {number}\n")
            await watch.sees(f"n: {number}\n")
            took.append(time.monotonic() - start)
        assert sorted(took)[5] < 0.25


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert {place.name for place in places(tmp_path / "a")} == {"a", "b"}


def test_the_way_to_a_missing_file_ends_at_the_first_missing_name(tmp_path: Path) -> None:
    assert {place.name for place in places(tmp_path / "no" / "such" / "lmx.yaml")} >= {"no"}
