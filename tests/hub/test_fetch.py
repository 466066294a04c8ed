"""The downloading process, against a hub that fails in every way a hub can."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
from huggingface_hub import scan_cache_dir, snapshot_download

from appliance.hub import find, inventory
from tests.hub import models
from tests.hub.fetching import DEADLINE, ROOT, Fetch, fetch
from tests.hub.hubserver import Hub, Repo, etag, random_cuts

Environment = Callable[..., dict[str, str]]


def size(repo: Repo) -> int:
    return sum(len(data) for data in repo.files.values())


def test_a_download_is_found_and_readable_by_the_hubs_own_client(
    hub: Hub, environment: Environment, cache: Path
) -> None:
    repo = hub.add("org/m", models.sharded(kib=64))
    done = fetch(environment(), "org/m")
    found = find("org/m", cache=cache)
    assert (found.state, found.path) == ("present", done["path"])
    assert [m.repo for m in inventory(cache)] == ["org/m"]
    assert snapshot_download("org/m", cache_dir=cache, local_files_only=True) == done["path"]
    scanned = scan_cache_dir(cache)
    assert not scanned.warnings
    (seen,) = scanned.repos
    assert (seen.repo_id, seen.size_on_disk, set(seen.refs)) == ("org/m", size(repo), {"main"})
    for name, data in repo.files.items():
        assert (Path(done["path"]) / name).read_bytes() == data
        assert (Path(done["path"]) / name).is_symlink()


def test_only_what_a_model_needs_is_fetched(hub: Hub, environment: Environment) -> None:
    files = models.model()
    other = {
        "pytorch_model.bin": b"\x80pickle",
        "model.pt": b"\x80",
        "modeling.py": b"import os",
        "README.md": b"#",
        "onnx/model.onnx": b"x",
        "onnx/config.json": b"{}",
        "consolidated.safetensors": models.weights(),
        "1_Pooling/config.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
    }
    hub.add("org/m", files | other)
    path = Path(fetch(environment(), "org/m")["path"])
    wanted = {*files, "chat_template.jinja", "1_Pooling/config.json"}
    assert {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} == wanted
    path = Path(fetch(environment(), "org/m", "--allow-code")["path"])
    assert (path / "modeling.py").read_bytes() == b"import os"


@pytest.mark.parametrize("seed", range(3))
def test_ten_cuts_at_random_places_cost_no_byte_twice(
    hub: Hub, environment: Environment, cache: Path, seed: int
) -> None:
    repo = hub.add("org/m", models.model(kib=1024))
    hub.cuts = random_cuts(10, 90_000, seed)
    fetch(environment(), "org/m")
    assert find("org/m", cache=cache).state == "present"
    assert hub.cuts == []
    assert hub.served <= 1.1 * size(repo)


def test_killed_half_way_it_goes_on_where_it_was(hub: Hub, environment: Environment, cache: Path) -> None:
    repo = hub.add("org/m", models.model(kib=1024))
    hub.gate = Event()
    first = Fetch(["org/m"], environment())
    assert hub.half_way.wait(DEADLINE)
    had = _arrived(cache)
    first.kill()
    assert find("org/m", cache=cache).state == "absent"
    hub.gate.set()
    hub.gate = None
    fetch(environment(), "org/m")
    assert find("org/m", cache=cache).state == "present"
    ranges = [seen.range for seen in hub.file_requests() if seen.path.startswith("/cdn/")]
    assert ranges == [None, f"bytes={had}-"]
    assert had > size(repo) // 3


def _arrived(cache: Path) -> int:
    """Bytes of the incomplete file once they have stopped growing: the server waits half-way."""
    deadline = time.monotonic() + DEADLINE
    last = -1
    while time.monotonic() < deadline:
        now = sum(path.stat().st_size for path in cache.rglob("*.incomplete"))
        if now == last and now > 400_000:
            return now
        last = now
        time.sleep(0.05)
    raise AssertionError(f"only {last} bytes came")


def test_what_is_there_is_not_fetched_again(hub: Hub, environment: Environment) -> None:
    hub.add("org/m", models.model())
    fetch(environment(), "org/m")
    before = hub.served
    assert fetch(environment(), "org/m")["event"] == "done"
    assert hub.served == before


def test_a_branch_that_moved_fetches_only_what_changed(
    hub: Hub, environment: Environment, cache: Path
) -> None:
    files = models.sharded(kib=64)
    hub.add("org/m", files)
    old = Path(fetch(environment(), "org/m")["path"])
    before = hub.served
    fresh = {**files, "tokenizer.json": b"{}"}
    repo = hub.add("org/m", fresh)
    new = Path(fetch(environment(), "org/m")["path"])
    assert hub.served - before == 2
    assert old != new
    assert old.is_dir()
    assert find("org/m", "main", cache=cache).path == str(new)
    assert find("org/m", repo.commit, cache=cache).path == str(new)


@pytest.mark.parametrize("short", [False, True])
def test_a_commit_can_be_asked_for(hub: Hub, environment: Environment, cache: Path, short: bool) -> None:
    commit = hub.add("org/m", models.model()).commit
    revision = commit[:7] if short else commit
    fetch(environment(), "org/m", "--revision", revision)
    assert find("org/m", revision, cache=cache).state == "present"
    assert find("org/m", "main", cache=cache).state == "absent"


def test_two_processes_share_one_download(hub: Hub, environment: Environment, cache: Path) -> None:
    repo = hub.add("org/m", models.model(kib=1024))
    hub.gate = Event()
    first = Fetch(["org/m"], environment())
    assert hub.half_way.wait(DEADLINE)
    second = Fetch(["org/m"], environment())
    assert "another process" in second.until("waiting")["message"]
    hub.gate.set()
    assert first.end()["event"] == second.end()["event"] == "done"
    assert hub.served == size(repo)


def test_it_ends_with_the_process_that_started_it(hub: Hub, environment: Environment) -> None:
    hub.add("org/m", models.model(kib=1024))
    hub.gate = Event()
    command = [sys.executable, "-m", "appliance.hub.fetch", "org/m"]
    with subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert hub.half_way.wait(DEADLINE)
        assert child.stdout is not None
        child.stdout.close()  # as the kernel does when the parent is gone
        assert child.wait(DEADLINE) == 1


# --- wrong bytes ----------------------------------------------------------------------------------


def test_one_wrong_byte_is_noticed_and_fetched_again(hub: Hub, environment: Environment, cache: Path) -> None:
    repo = hub.add("org/m", models.model(kib=64))
    hub.spoil = 1
    child = Fetch(["org/m"], environment())
    assert child.end()["event"] == "done"
    assert any("wrong checksum" in e["message"] for e in child.events if e["event"] == "retry")
    name = "model.safetensors"
    assert (Path(child.events[-1]["path"]) / name).read_bytes() == repo.files[name]


def test_bytes_that_stay_wrong_never_become_a_model(hub: Hub, environment: Environment, cache: Path) -> None:
    data = hub.add("org/m", models.model(kib=64)).files["model.safetensors"]
    hub.spoil = 99
    last = fetch(environment(), "org/m")
    assert (last["code"], last["permanent"]) == ("checksum_mismatch", False)
    assert find("org/m", cache=cache).state == "absent"
    assert not list(cache.rglob(etag(data) + "*"))


def test_a_file_that_changes_on_the_way_is_started_over(
    hub: Hub, environment: Environment, cache: Path
) -> None:
    hub.add("org/m", models.model(kib=256, seed=1))
    hub.cuts = [100_000]

    def replace_after_the_cut(hub: Hub) -> None:
        if not hub.cuts:
            hub.on_file = None
            hub.add("org/m", models.model(kib=256, seed=2))

    hub.on_file = replace_after_the_cut
    path = Path(fetch(environment(), "org/m")["path"])
    assert (path / "model.safetensors").read_bytes() == models.weights(256, seed=2)
    assert not list(cache.rglob("*.incomplete"))


def test_a_server_that_ignores_ranges_is_taken_from_the_start(
    hub: Hub, environment: Environment, cache: Path
) -> None:
    hub.add("org/m", models.model(kib=256))
    hub.cuts, hub.ignore_range = [100_000], True
    child = Fetch(["org/m"], environment())
    assert child.end()["event"] == "done"
    assert find("org/m", cache=cache).state == "present"
    assert child.events[-2]["done"] == child.events[-2]["total"]


def test_statuses_that_pass_are_waited_out(hub: Hub, environment: Environment) -> None:
    hub.add("org/m", models.model(kib=64))
    hub.statuses, hub.headers = [503, 429, 500], {"Retry-After": "1"}
    began = time.monotonic()
    assert fetch(environment(), "org/m")["event"] == "done"
    assert time.monotonic() - began >= 1.0


# --- refusals -------------------------------------------------------------------------------------


def test_a_repo_that_does_not_exist(environment: Environment) -> None:
    last = fetch(environment(), "org/nothing")
    assert (last["code"], last["permanent"]) == ("not_found", True)
    assert "there is no org/nothing" in last["message"]


def test_a_revision_that_does_not_exist(hub: Hub, environment: Environment) -> None:
    hub.add("org/m", models.model())
    last = fetch(environment(), "org/m", "--revision", "v9")
    assert (last["code"], last["permanent"]) == ("revision_not_found", True)


def test_a_gated_repo_says_where_to_ask(hub: Hub, environment: Environment) -> None:
    hub.add("org/m", models.model(), gated=True)
    last = fetch(environment(), "org/m")
    assert last["code"] == "gated"
    assert f"{hub.url}/org/m" in last["message"]


def test_a_token_that_is_refused(hub: Hub, environment: Environment) -> None:
    hub.add("org/m", models.model(), private=True)
    hub.token = "right"
    last = fetch(environment(HF_TOKEN="wrong"), "org/m")
    assert last["code"] == "unauthorized"


def test_the_token_goes_to_the_hub_alone_and_is_never_shown(hub: Hub, environment: Environment) -> None:
    hub.add("org/m", models.model(kib=64), private=True)
    hub.token = "hf_secret"
    child = Fetch(["org/m"], environment(HF_TOKEN="hf_secret"))
    assert child.end()["event"] == "done"
    cdn = [seen for seen in hub.seen if seen.path.startswith("/cdn/")]
    others = [seen for seen in hub.seen if not seen.path.startswith("/cdn/")]
    assert cdn
    assert {seen.authorization for seen in cdn} == {None}
    assert {seen.authorization for seen in others} == {"Bearer hf_secret"}
    assert "hf_secret" not in child.complaints + str(child.events)


def test_offline_says_so_and_asks_nobody(hub: Hub, environment: Environment) -> None:
    hub.add("org/m", models.model())
    assert fetch(environment(HF_HUB_OFFLINE="1"), "org/m")["code"] == "offline"
    assert hub.seen == []


@pytest.mark.parametrize(
    "name", ["../../evil.json", "/etc/cron.d/x", "a/../../../b.safetensors", "x\\..\\evil.json"]
)
def test_a_hostile_listing_writes_nothing(
    hub: Hub, environment: Environment, tmp_path: Path, name: str
) -> None:
    hub.add("org/m", models.model())
    hub.extra_names = [name]
    last = fetch(environment(), "org/m")
    assert (last["code"], last["permanent"]) == ("unsafe", True)
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert hub.file_requests() == []


@pytest.mark.parametrize("repo", ["../x", "a/b/c", "org/m.git"])
def test_a_name_that_is_no_repo(hub: Hub, environment: Environment, repo: str) -> None:
    assert fetch(environment(), repo)["code"] == "not_found"
    assert hub.seen == []


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "safetensors weights"),
        ({"model.gguf": b"x", "README.md": b"x"}, "config.json"),
    ],
)
def test_a_repo_that_nothing_could_load_is_not_fetched(
    hub: Hub, environment: Environment, files: dict[str, bytes], lacks: str
) -> None:
    hub.add("org/m", files)
    last = fetch(environment(), "org/m")
    assert (last["code"], last["permanent"]) == ("unsupported", True)
    assert lacks in last["message"]
    assert hub.served == 0


def test_a_cache_that_cannot_be_written(hub: Hub, environment: Environment, tmp_path: Path) -> None:
    hub.add("org/m", models.model())
    (tmp_path / "file").write_text("x")
    assert fetch(environment(), "org/m", "--cache", str(tmp_path / "file"))["code"] == "storage"
