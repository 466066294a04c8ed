"""Files hold conversations: nobody else reads them, and nothing of anybody else's is touched."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.prompt_cache import folder
from appliance.prompt_cache.register import Gone
from tests.prompt_cache.making import META, NAMESPACE, PATIENCE, Shop, path_of, payload, record, shop, text


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Shop]:
    with shop(tmp_path / "above" / "cache") as disk:
        yield disk


def rights(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): stat.S_IMODE(path.lstat().st_mode) for path in root.rglob("*")}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_files_have_0600_in_folders_of_0700_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with shop(tmp_path / "above" / "cache") as disk:
            disk.put(*text(3))
            path_of(disk.root, text(3)[0]).write_bytes(b"broken")
            disk.read([text(3)[0].key])
            disk.settle()
    finally:
        os.umask(before)
    found = rights(tmp_path)
    assert len([name for name in found if name.endswith(".safetensors")]) == 3
    for name, mode in found.items():
        assert mode == (0o700 if (tmp_path / name).is_dir() else 0o600), name


def test_folders_that_were_open_to_others_are_closed(disk: Shop) -> None:
    disk.put(record())
    disk.store.close(5)
    ours = disk.root / folder.LAYOUT
    for path in (ours, ours / NAMESPACE, path_of(disk.root, record()).parent):
        path.chmod(0o755)
    with shop(disk.root) as later:
        later.store.scan()
        assert set(rights(disk.root).values()) == {0o700, 0o600}


def test_the_rights_of_a_root_that_was_there_stay_as_they_are(tmp_path: Path) -> None:
    """It may be /Volumes/SSD, with other things in it; ours are in a folder of 0700 below."""
    tmp_path.chmod(0o755)
    with shop(tmp_path) as disk:
        disk.put(record())
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / folder.LAYOUT).stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_that_cannot_be_closed_is_said(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from tests.prompt_cache.making import Shop, record
os.setgid(65534)
os.setuid(65534)
shop = Shop(Path(sys.argv[1]))
shop.put(record())
use = shop.store.use()
assert use.state == "ready", use
assert "other users may look into" in use.why and "chmod 700" in use.why, use
shop.store.close(5)
"""
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        os.mkdir(f"{root}/1")
        os.chmod(f"{root}/1", 0o777)
        command = [sys.executable, "-c", script, root]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "ssd").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "ssd")
    with shop(tmp_path / "cache") as disk:
        disk.put(record())
        assert disk.read([record().key])[record().key] is not None
    assert len(list((tmp_path / "ssd").rglob("*.safetensors"))) == 1


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "folder"])
def test_what_is_no_plain_file_is_neither_read_nor_written_nor_deleted(
    disk: Shop, tmp_path: Path, kind: str
) -> None:
    made = record()
    disk.put(made)
    path = path_of(disk.root, made)
    precious = tmp_path / "precious"
    path.rename(precious)
    if kind == "link":
        path.symlink_to(precious)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    body, status = precious.read_bytes(), path.lstat()
    assert disk.read([made.key]) == {made.key: None}
    assert disk.store.scan() == []
    disk.put(made)
    assert disk.seen[-1] == Gone(made.key, "failed")
    disk.store.drop([made.key])
    disk.store.configure(1)
    disk.settle()
    assert path.lstat() == status
    assert precious.read_bytes() == body
    assert not (tmp_path / "nowhere").exists()
    assert disk.store.use().state == "ready"


@pytest.mark.parametrize("which", ["shard", "damaged", "sessions"])
def test_a_folder_that_is_a_link_is_not_followed(disk: Shop, tmp_path: Path, which: str) -> None:
    made, other = text(2)
    disk.put(made, other)
    path = path_of(disk.root, made)
    away = tmp_path / "away"
    linked = path.parent if which == "shard" else path.parent.parent / which
    if which == "shard":
        linked.rename(away)
    else:
        away.mkdir()
    linked.symlink_to(away)
    before = {one: one.read_bytes() for one in away.rglob("*")}
    if which != "shard":
        path.write_bytes(b"broken")
    assert disk.read([made.key])[made.key] is None
    disk.store.scan()
    disk.put(made)
    disk.store.drop([made.key])
    disk.settle()
    assert {one: one.read_bytes() for one in away.rglob("*")} == before
    assert linked.is_symlink()
    assert disk.read([other.key])[other.key] is not None


@pytest.mark.parametrize("which", [".", NAMESPACE])
def test_a_link_in_the_place_of_the_cache_itself_is_said_and_not_followed(tmp_path: Path, which: str) -> None:
    link = tmp_path / "cache" / folder.LAYOUT / which
    link.parent.mkdir(parents=True)
    (tmp_path / "away").mkdir()
    link.symlink_to(tmp_path / "away")
    with shop(tmp_path / "cache") as disk:
        assert "is not a folder: move it away" in disk.failed()
        assert not disk.store.put(record(), payload(), META)
    assert list((tmp_path / "away").iterdir()) == []


def test_names_that_are_not_ours_do_not_exist_for_us(disk: Shop) -> None:
    disk.put(record())
    namespace = disk.root / folder.LAYOUT / NAMESPACE
    strange = [
        disk.root / "holiday.safetensors",
        namespace / "notes.txt",
        namespace / f"{NAMESPACE}.safetensors",
        namespace / "ab" / "README",
        namespace / "ab" / ("ff" * 16 + ".safetensors"),  # in the wrong folder
        namespace / "ab" / ("AB" * 16 + ".safetensors"),
        namespace / "ab" / (".x.123.tmp"),
        namespace / "zz" / ("ab" * 16 + ".safetensors"),
        namespace / "sessions" / "mine.json",
        disk.root / "2" / NAMESPACE / "ab" / ("ab" * 16 + ".safetensors"),
    ]
    for path in strange:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
        os.utime(path, (0, 0))
    assert len(disk.store.scan()) == 1
    disk.store.configure(1)
    disk.until(lambda: disk.store.use().all_bytes == 0)
    assert all(path.exists() for path in strange)
    assert not disk.has(record())[0]


# --- writers that died --------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from tests.prompt_cache.making import META, Shop, payload, text
shop = Shop(Path(sys.argv[1]))
records = text(1000)
for made in records:
    while not shop.store.put(made, payload(2**22, made.key[0]), META):
        pass
    print(len(shop.news()), flush=True)
"""


def test_kill_9_in_the_middle_of_writing_loses_only_what_was_not_whole(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    for attempt in range(3):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE)
        deadline = time.monotonic() + PATIENCE
        namespace = root / folder.LAYOUT / NAMESPACE
        while not (len(list(namespace.glob("??/*.safetensors"))) > 3 * attempt and list(root.rglob("*.tmp"))):
            assert time.monotonic() < deadline
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]
        files = {path.stem for path in namespace.glob("??/*.safetensors")}
        with shop(root) as disk:
            found = disk.store.scan()
            assert {made.key.hex() for made, _, _ in found} == files
            assert all(disk.read([made.key])[made.key] for made, _, _ in found)
            assert disk.store.use().damaged == 0
            assert not list(root.rglob("*.tmp"))
            disk.settle()


def test_the_temporary_file_of_a_living_writer_is_left_alone(disk: Shop) -> None:
    disk.put(record())
    folder_of = path_of(disk.root, record()).parent
    mine = Path(folder.temporary(str(folder_of)))
    parent = folder_of / f".aa.{os.getppid()}.{'0' * 16}.tmp"
    earlier = folder_of / f".aa.{os.getpid()}.{'0' * 16}.tmp"  # this number, in a container before
    old = folder_of / f".bb.{os.getppid()}.{'0' * 16}.tmp"
    about = folder_of.parent / earlier.name
    for path in (mine, parent, earlier, old, about):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    disk.store.scan()
    left = [path for path in (mine, parent, earlier, old, about) if path.exists()]
    assert left == [mine, parent]
