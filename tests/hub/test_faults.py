"""Faults that only the inside can bring about: no space, no server, no patience."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from appliance.hub import blob, fetch
from appliance.hub.blob import Patience
from appliance.hub.failure import FetchError
from tests.hub import models
from tests.hub.hubserver import Hub

QUICK = Patience(first=0.01, factor=1.0, longest=0.01, tries=3)


@pytest.fixture
def here(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`fetch.download` in this process, from the test's own hub."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def download(tell: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
        return fetch.download("org/m", None, cache, tell, patience=QUICK)

    return download


def failure(download: Callable[[], Path]) -> FetchError:
    with pytest.raises(FetchError) as caught:
        download()
    return caught.value


def test_too_little_space_is_said_before_a_byte_is_fetched(
    hub: Hub, here: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/m", models.model(kib=64))
    free = SimpleNamespace(f_bavail=1024, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: free)
    error = failure(here)
    assert (error.code, error.permanent) == ("insufficient_storage", False)
    assert "free space, or set HF_HUB_CACHE" in error.message
    assert hub.served == 0


def test_what_is_there_already_needs_no_space(
    hub: Hub, here: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/m", models.model(kib=64))
    here()
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=0, f_frsize=4096))
    assert here().is_dir()


def test_a_disk_that_fills_up_on_the_way(
    hub: Hub, here: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/m", models.model(kib=64))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blob.os, "fsync", full)
    assert failure(here).code == "insufficient_storage"


def test_no_server_is_a_network_error_after_a_few_tries(
    here: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        told: list[dict[str, Any]] = []
        with pytest.raises(FetchError) as caught:
            here(told.append)
    assert (caught.value.code, caught.value.permanent) == ("network", False)
    assert [said["event"] for said in told] == ["retry"] * (QUICK.tries - 1)


def test_a_server_that_only_fails_ends_after_a_few_tries(hub: Hub, here: Callable[..., Path]) -> None:
    hub.add("org/m", models.model(kib=64))
    hub.statuses = [503] * 100
    error = failure(here)
    assert error.code == "network"
    assert "503" in error.message


def test_bytes_between_failures_start_the_count_again(hub: Hub, here: Callable[..., Path]) -> None:
    hub.add("org/m", models.model(kib=256))
    hub.cuts = [10_000] * (4 * QUICK.tries)
    assert here().is_dir()
    assert hub.cuts == []


def test_a_file_that_vanishes_from_the_commit_is_not_waited_for(hub: Hub, here: Callable[..., Path]) -> None:
    repo = hub.add("org/m", models.model(kib=64))

    def vanish(hub: Hub) -> None:
        repo.files.pop("tokenizer.json", None)

    hub.on_file = vanish
    assert here().is_dir()  # the second listing no longer names it


def test_a_ref_that_is_a_folder_is_named(hub: Hub, here: Callable[..., Path], cache: Path) -> None:
    hub.add("org/m", models.model())
    (cache / "models--org--m/refs/main").mkdir(parents=True)
    error = failure(here)
    assert error.code == "storage"
    assert "refs/main" in error.message


def test_the_meter_measures_what_came_over_the_wire() -> None:
    now = [0.0]
    meter = fetch.Meter(1000, lambda: now[0])
    meter.moved(400)  # was there before
    now[0] = 1.0
    meter.moved(100)
    meter.arrived(100, "f")
    assert meter.reading() == {
        "done": 500,
        "total": 1000,
        "arrived": 100,
        "rate": 100.0,
        "eta": 5.0,
        "file": "f",
    }
    for second in range(2, 12):
        now[0] = float(second)
        reading = meter.reading()
    assert (reading["rate"], reading["eta"]) == (0.0, None)  # nothing for longer than the window


def test_the_wait_grows_and_is_bounded() -> None:
    patience = Patience(first=1.0, factor=10.0, longest=20.0)
    assert 0.8 <= patience.wait(1) <= 1.2
    assert 16.0 <= patience.wait(9) <= 24.0
    assert patience.wait(1, asked=7.0) == 7.0
    assert patience.wait(1, asked=1e9) == 300.0
