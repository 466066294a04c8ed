"""POST /admin/models/pull: what the spec names, fetched on request and watched while it comes."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.e2e.machine import LIMIT_S, LOOK_S, MINI, Machine
from tests.hub.hubserver import Hub

FILES = {f.name: f.read_bytes() for f in MINI.iterdir()}
WANTED = {name: data for name, data in FILES.items() if not name.endswith(".md")}
TOTAL = sum(map(len, WANTED.values()))


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    made = Hub.start()
    made.token = "hf_right"
    for name in "abcde":
        made.add(f"lmx/{name}", {**FILES, "other.txt": name.encode()})
    made.add("lmx/gated", FILES, gated=True)
    made.add("lmx/pickled", {"config.json": FILES["config.json"], "pytorch_model.bin": b"x" * 5000})
    config = {**json.loads(FILES["config.json"]), "model_file": "loader.py"}
    code = {"config.json": json.dumps(config).encode(), "loader.py": b"raise SystemExit\n"}
    made.add("lmx/code", {**FILES, **code})
    yield made
    made.close()


@pytest.fixture(scope="module")
def served(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("pull"))
    made.env = hub.environment(made.folder / "hub")
    spec = made.spec()
    for name in ("a", "b", "c", "d", "e", "gated", "pickled", "missing", "code"):
        spec["models"][name] = {"source": f"lmx/{name}"}
    spec["models"]["old"] = {"source": "lmx/a", "revision": "f" * 40}
    made.up(spec)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def open_gate(hub: Hub) -> Iterator[None]:
    """Nothing is held up after a test, whatever became of it."""
    yield
    if hub.gate is not None:
        hub.gate.set()
    hub.gate, hub.announced = None, {}
    hub.half_way.clear()


@contextlib.contextmanager
def pulling(machine: Machine, name: str) -> Iterator[httpx.Response]:
    url = f"http://127.0.0.1:{machine.port}/admin/models/pull"
    with httpx.Client(timeout=LIMIT_S) as client, client.stream("POST", url, json={"model": name}) as reply:
        yield reply


def events(reply: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in reply.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def pull(machine: Machine, name: str) -> list[dict[str, Any]]:
    with pulling(machine, name) as reply:
        assert reply.status_code == 200, reply.read()
        assert reply.headers["content-type"].startswith("text/event-stream")
        return list(events(reply))


def downloaders(machine: Machine) -> list[psutil.Process]:
    return [process for process in machine.engines() if "appliance.hub.fetch" in process.cmdline()]


def until_no_downloader(machine: Machine) -> None:
    end = time.monotonic() + LIMIT_S
    while downloaders(machine):
        assert time.monotonic() < end, machine.tail()
        time.sleep(LOOK_S)


def test_progress_comes_as_events_and_shows_in_status_and_history(served: Machine, hub: Hub) -> None:
    hub.gate = threading.Event()
    with pulling(served, "a") as reply:
        told = events(reply)
        first = next(told)
        assert (first["type"], first["state"], first["total"]) == ("progress", "downloading", TOTAL + 1)
        assert first["rate"] >= 0
        assert set(first) == {"type", "model", "state", "done", "total", "rate", "eta", "file", "message"}
        shown = served.until(lambda s: s["models"]["a"]["state"] == "downloading")["models"]["a"]
        assert shown["progress"]["total"] == TOTAL + 1
        hub.gate.set()
        last = list(told)[-1]
    assert (last["type"], last["state"], last["done"], last["total"]) == (
        "done",
        "done",
        TOTAL + 1,
        TOTAL + 1,
    )
    status = served.until(lambda s: s["models"]["a"]["state"] == "on_disk")
    kinds = [event["type"] for event in status["events"]]
    assert "DownloadStarted" in kinds
    assert "DownloadFinished" in kinds


def test_two_who_pull_the_same_share_one_download(served: Machine, hub: Hub) -> None:
    hub.gate = threading.Event()
    before = hub.served
    with pulling(served, "b") as one, pulling(served, "b") as other:
        first, second = events(one), events(other)
        assert next(first)["model"] == next(second)["model"] == "b"
        assert len(downloaders(served)) == 1
        hub.gate.set()
        assert [list(first)[-1]["state"], list(second)[-1]["state"]] == ["done", "done"]
    assert hub.served - before == TOTAL + 1


def test_who_leaves_stops_the_download_and_the_next_goes_on_from_there(served: Machine, hub: Hub) -> None:
    hub.gate = threading.Event()
    with pulling(served, "c") as reply:
        next(event for event in events(reply) if event["done"] > TOTAL // 3)
    until_no_downloader(served)
    served.until(lambda s: s["models"]["c"]["state"] == "absent")
    hub.gate.set()
    asked = len(hub.seen)
    assert pull(served, "c")[-1]["state"] == "done"
    # From where it was cut. How many bytes the server wrote says less: those of the cut connection lie in the
    # system's buffers, and how many more it takes until it notices is chance.
    begins = [int(seen.range.removeprefix("bytes=").rstrip("-")) for seen in hub.seen[asked:] if seen.range]
    assert max(begins) > TOTAL // 3
    assert min(begins) > 0


def test_who_leaves_does_not_stop_what_the_loop_wants(served: Machine, hub: Hub) -> None:
    spec = yaml.safe_load(served.file.read_text())
    hub.gate = threading.Event()
    with pulling(served, "d") as reply:
        told = events(reply)
        next(told)
        assert hub.half_way.wait(LIMIT_S)
        served.write({**spec, "active": "d"})
        # The loop's own wish joins the download.
        served.until(lambda s: s["generation"] > 1 and s["models"]["d"]["state"] == "downloading")
        child = downloaders(served)
    hub.gate.set()
    served.until_synced("d")
    assert len(child) == 1
    served.write(spec)
    served.until_synced("demo")


@pytest.mark.parametrize(
    ("name", "status", "code", "reason", "said"),
    [
        ("gated", 403, "gated", "gated", "ask for access"),
        ("missing", 404, "not_found", "not_found", "there is no lmx/missing"),
        ("old", 404, "not_found", "revision_not_found", "no revision"),
        ("pickled", 400, "not_supported", "unsupported", "safetensors"),
    ],
)
def test_what_cannot_be_fetched_is_explained(
    served: Machine, name: str, status: int, code: str, reason: str, said: str
) -> None:
    answer, body = served.call("POST", "/admin/models/pull", {"model": name})
    error = body["error"]
    assert (answer, error["code"], error["reason"]) == (status, code, reason)
    assert said in error["message"]


def test_a_disk_without_room_is_507_before_a_byte_has_come(served: Machine, hub: Hub) -> None:
    hub.announced = {"model.safetensors": 2**60}
    asked = len(hub.file_requests())
    status, body = served.call("POST", "/admin/models/pull", {"model": "e"})
    assert (status, body["error"]["code"]) == (507, "insufficient_storage")
    assert len(hub.file_requests()) == asked


def test_wrong_content_is_an_error_event_once_the_stream_has_begun(served: Machine, hub: Hub) -> None:
    hub.spoil = 100
    try:
        told = pull(served, "e")
    finally:
        hub.spoil = 0
    assert told[0]["type"] == "progress"
    assert (told[-1]["type"], told[-1]["error"]["code"]) == ("error", "checksum_mismatch")
    assert served.status()["models"]["e"]["state"] != "on_disk"


@pytest.mark.parametrize("name", ["lmx/unnamed", "nobody", "/etc", "../demo", "https://example.com/x"])
def test_only_what_the_spec_names_is_fetched(served: Machine, hub: Hub, name: str) -> None:
    asked = len(hub.seen)
    status, body = served.call("POST", "/admin/models/pull", {"model": name})
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert len(hub.seen) == asked


def test_a_local_model_is_there_already(served: Machine) -> None:
    assert [event["state"] for event in pull(served, "mini")] == ["done"]


def test_code_comes_only_where_the_spec_trusts_it(served: Machine, hub: Hub) -> None:
    pull(served, "code")
    assert not any("loader.py" in seen.path for seen in hub.file_requests())
    spec = yaml.safe_load(served.file.read_text())
    trusting = {**spec["models"]["code"], "trust_remote_code": True, "revision": hub.repos["lmx/code"].commit}
    served.write({**spec, "models": {**spec["models"], "code": trusting}})
    served.until_synced("demo")
    pull(served, "code")
    assert any("loader.py" in seen.path for seen in hub.file_requests())
    served.write(spec)
    served.until_synced("demo")
