"""A disk that is full, read-only, forbidden or failing turns the tier off, with a reason."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.prompt_cache.register import Gone, Written
from appliance.prompt_cache.sessions import Named, on_disk
from appliance.prompt_cache.trouble import Health
from tests.prompt_cache.making import META, Shop, path_of, payload, record, shop, text

RETRY_S = 0.05


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    at = tmp_path / "disk"
    at.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(at)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def test_a_full_disk_drops_the_write_and_says_what_to_do(small_disk: Path) -> None:
    with shop(small_disk / "cache", retry_s=RETRY_S) as disk:
        small, large = text(2)
        disk.put(small)
        disk.put(large, nbytes=2**21)
        assert disk.seen[-1] == Gone(large.key, "failed")
        assert disk.store.use().state == "failed"
        why = disk.store.use().why or ""
        assert f"{path_of(disk.root, large).parent}: " in why
        assert "the disk is full" in why
        assert "cache.path" in why
        assert not list(disk.root.rglob("*.tmp"))
        assert not disk.store.put(record(first=5), payload(), META)
        assert disk.read([small.key])[small.key] is not None


def test_a_disk_with_room_again_is_written_again(small_disk: Path) -> None:
    (small_disk / "films").write_bytes(bytes(900_000))
    with shop(small_disk / "cache", retry_s=RETRY_S) as disk:
        disk.put(record(), nbytes=200_000)
        assert disk.seen == [Gone(record().key, "failed")]
        (small_disk / "films").unlink()
        disk.until(lambda: disk.store.use().state == "ready")
        assert disk.store.use().why is None
        disk.put(record(), nbytes=200_000)
        assert isinstance(disk.seen[-1], Written)


def test_a_disk_that_is_still_nearly_full_is_left_alone(small_disk: Path) -> None:
    """Room for the trial alone is no reason to fail with the next block again."""
    (small_disk / "films").write_bytes(bytes(900_000))
    with shop(small_disk / "cache", retry_s=RETRY_S) as disk:
        disk.put(record(), nbytes=200_000)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            disk.store._shelf.probe()


def test_a_disk_that_becomes_read_only_fails_and_recovers(small_disk: Path) -> None:
    with shop(small_disk / "cache", retry_s=RETRY_S) as disk:
        made, other = text(2)
        disk.put(made)
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        disk.put(other)
        assert disk.seen[-1] == Gone(other.key, "failed")
        assert "read-only" in (disk.store.use().why or "")
        assert disk.read([made.key])[made.key] is not None
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        disk.until(lambda: disk.store.use().state == "ready")
        disk.put(other)
        assert isinstance(disk.seen[-1], Written)


def test_a_full_disk_costs_the_waiting_writes_as_well(small_disk: Path) -> None:
    with shop(small_disk / "cache", retry_s=60.0) as disk:
        records = text(4)
        sent = [disk.store.put(made, payload(2**21), META) for made in records]
        assert sent[0]
        disk.until(lambda: len(disk.news()) == sum(sent))
        assert set(disk.seen) == {Gone(made.key, "failed") for made in records[: sum(sent)]}


LIMITED = """
import os, resource, sys
from pathlib import Path
from appliance.prompt_cache.register import Gone, Written
from tests.prompt_cache.making import META, Shop, record, text

shop = Shop(Path(sys.argv[1]), retry_s=0.05)
small, large = text(2)
shop.put(small)

soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
shop.put(large, nbytes=2**20)
assert shop.seen[-1] == Gone(large.key, "failed"), shop.seen
assert "over the limit" in shop.store.use().why or shop.store.use().state == "ready", shop.store.use()
assert not list(shop.root.rglob("*.tmp"))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
shop.until(lambda: shop.store.use().state == "ready")
shop.put(large, nbytes=2**20)
assert isinstance(shop.seen[-1], Written), shop.seen

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
lowest = os.dup(0)
os.close(lowest)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
assert shop.read([small.key]) == {small.key: None}
assert shop.news()[-1] == Gone(small.key, "failed"), shop.seen
assert "too many open files" in shop.store.use().why, shop.store.use()
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
shop.until(lambda: shop.store.use().state == "ready")
assert shop.read([small.key])[small.key] is not None
shop.store.close(5)
"""


def test_limits_of_the_process_fail_the_tier_and_not_the_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "cache")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


FORBIDDEN = """
import os, sys
from pathlib import Path
from appliance.prompt_cache.register import Written
from tests.prompt_cache.making import META, Shop, payload, record

if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
shop = Shop(Path(sys.argv[1]) / "cache", retry_s=0.05)
print(shop.failed(), flush=True)
assert not shop.store.put(record(), payload(), META)
shop.until(lambda: shop.store.use().state == "ready")
shop.put(record())
assert isinstance(shop.seen[-1], Written), shop.seen
shop.store.close(5)
"""


def test_a_folder_without_permission_fails_until_it_is_given() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        command = [sys.executable, "-c", FORBIDDEN, folder]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert child.stdout is not None
        why = child.stdout.readline()
        os.chmod(folder, 0o777)
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        assert "no permission" in why
        assert f"{folder}/cache" in why


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.EPERM, "no permission"),
        (errno.EIO, "reports errors"),
        (errno.ESTALE, os.strerror(errno.ESTALE)),
    ],
)
def test_every_reason_names_the_path_and_what_is_wrong(number: int, says: str) -> None:
    health = Health(Path("/somewhere/cache"))
    health.fail(OSError(number, os.strerror(number)))
    assert health.failed
    assert "/somewhere/cache" in (health.why or "")
    assert says in (health.why or "")


def test_a_fault_of_our_own_stops_writing_and_is_said(tmp_path: Path) -> None:
    disk = Shop(tmp_path / "cache")
    disk.put(record())
    seen: list[object] = []
    before, threading.excepthook = threading.excepthook, lambda given: seen.append(given.exc_value)
    try:
        disk.store.save("sessions/x.json", lambda: bytes(1 // 0), 0.0)
        disk.until(lambda: disk.store.use().state == "failed")
        disk.store._writer.join(20)
    finally:
        threading.excepthook = before
    assert isinstance(seen[0], ZeroDivisionError)
    assert "fault of LMX" in (disk.store.use().why or "")
    assert not disk.store.put(record(first=1), payload(), META)
    assert disk.read([record().key])[record().key] is not None
    disk.store.close(5)


def test_a_session_is_written_once_the_disk_can_be_again(small_disk: Path) -> None:
    with shop(small_disk / "cache", retry_s=RETRY_S) as disk:
        disk.put(record())
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        Named(disk.store).touch("chat", "", record().key, 256, 1.0)
        assert "read-only" in disk.failed()
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        disk.until(lambda: on_disk(disk.root))
        assert [one.session.name for one in on_disk(disk.root)] == ["chat"]
