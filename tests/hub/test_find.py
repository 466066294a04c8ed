"""What `find` says of the files behind a source: there, not there, or wrong in a way it can name."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from appliance.hub import find, headers, locate, wanted
from appliance.hub.cache import Wanted
from tests.hub import models

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(
    cache: Path, repo: str, files: dict[str, bytes], commit: str = COMMIT, ref: str | None = "main"
) -> Path:
    """A snapshot as the hub's client writes it: symlinks into blobs."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    blobs, snapshot = folder / "blobs", folder / "snapshots" / commit
    models.write(blobs, {f"{commit[:4]}-{name}": data for name, data in files.items()})
    snapshot.mkdir(parents=True)
    for name in files:
        (snapshot / name).symlink_to(f"../../blobs/{commit[:4]}-{name}")
    if ref:
        models.write(folder / "refs", {ref: commit.encode()})
    return snapshot


def test_a_local_folder_is_present_with_its_sizes_from_the_headers(tmp_path: Path) -> None:
    models.write(tmp_path / "m", models.model(kib=8))
    found = find("./m", base=tmp_path)
    assert found.state == "present"
    assert (found.path, found.message) == (str(tmp_path / "m"), None)
    assert (found.weights_bytes, found.parameters) == (8 * 1024, 2048)
    assert found.config["model_type"] == "qwen3"


def test_a_sharded_model_is_the_sum_of_its_files(tmp_path: Path) -> None:
    models.write(tmp_path, models.sharded(kib=4))
    assert find(str(tmp_path)).weights_bytes == 8 * 1024


def test_packed_weights_count_as_what_they_unpack_to(tmp_path: Path) -> None:
    files = models.model()
    config = {**models.CONFIG, "quantization": {"group_size": 32, "bits": 4}}
    files["config.json"] = json.dumps(config).encode()
    files["model.safetensors"] = models.safetensors(
        {
            "q.weight": ("U32", [16, 8], 16 * 8 * 4),  # 16 x 64 weights of 4 bits
            "q.scales": ("BF16", [16, 2], 16 * 2 * 2),
            "q.biases": ("BF16", [16, 2], 16 * 2 * 2),
            "norm.weight": ("BF16", [64], 128),
        }
    )
    models.write(tmp_path, files)
    found = find(str(tmp_path))
    assert found.parameters == 16 * 64 + 64
    assert found.weights_bytes == 512 + 64 + 64 + 128


def test_the_demo_model_comes_with_lmx() -> None:
    found = find("builtin:lmx-demo")
    assert found.state == "present"
    assert found.parameters > 100_000


def test_an_unknown_builtin_is_broken_for_good() -> None:
    found = find("builtin:nothing")
    assert (found.state, found.permanent) == ("broken", True)
    assert "no model folder" in (found.message or "")


# --- what is wrong, and what to do ----------------------------------------------------------------


def broken(tmp_path: Path, files: dict[str, bytes]) -> str:
    models.write(tmp_path, files)
    found = find(str(tmp_path))
    assert (found.state, found.permanent) == ("broken", True)
    return found.message or ""


def test_weights_cut_short(tmp_path: Path) -> None:
    files = models.model(kib=8)
    files["model.safetensors"] = files["model.safetensors"][:-1000]
    assert "cut short" in broken(tmp_path, files)


def test_weights_cut_short_inside_the_header(tmp_path: Path) -> None:
    files = models.model()
    files["model.safetensors"] = files["model.safetensors"][:20]
    assert "cut short" in broken(tmp_path, files)


def test_weights_longer_than_they_say(tmp_path: Path) -> None:
    files = models.model()
    files["model.safetensors"] += b"more"
    assert "longer than its header says" in broken(tmp_path, files)


@pytest.mark.parametrize(
    "data", [b"", b"abc", struct.pack("<Q", 1 << 60) + b"{}", b"<!DOCTYPE html><html>Login</html>"]
)
def test_a_file_that_is_not_safetensors(tmp_path: Path, data: bytes) -> None:
    assert "not a safetensors file" in broken(tmp_path, {**models.model(), "model.safetensors": data})


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"not json",
        b'{"a": {}}',
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        b"[" * 5000,
    ],
)
def test_a_damaged_header(tmp_path: Path, header: bytes) -> None:
    data = struct.pack("<Q", len(header)) + header + b"\0" * 4
    assert "damaged" in broken(tmp_path, {**models.model(), "model.safetensors": data})


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    files = models.sharded()
    del files["model-00002-of-00002.safetensors"]
    assert "lacks 1 of 2 weight files that its index names, first model-00002" in broken(tmp_path, files)


def test_an_index_that_names_tensors_no_file_has(tmp_path: Path) -> None:
    files = models.sharded()
    files["model-00002-of-00002.safetensors"] = models.weights(4, "c")
    assert "lacks the tensor b.weight" in broken(tmp_path, files)


def test_an_index_that_points_outside(tmp_path: Path) -> None:
    files = models.sharded()
    files["model.safetensors.index.json"] = json.dumps(
        {"weight_map": {"a": "../secret.safetensors"}}
    ).encode()
    assert "points outside" in broken(tmp_path, files)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    files = models.model()
    del files["model.safetensors"]
    assert "has no weights" in broken(tmp_path, files)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.npz"])
def test_weights_only_in_a_format_that_can_carry_code(tmp_path: Path, name: str) -> None:
    files = {"config.json": models.model()["config.json"], name: b"x"}
    message = broken(tmp_path, files)
    assert name in message
    assert "mlx_lm.convert" in message


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "the folder is empty" in broken(tmp_path, {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"a": 1,\n "b"}', "line 2"),
        (b"\xff\xfe", "UTF-8"),
        (b"[]", "JSON object"),
        (b"{}", "no model_type"),
    ],
)
def test_a_wrong_config(tmp_path: Path, text: bytes, says: str) -> None:
    assert says in broken(tmp_path, {**models.model(), "config.json": text})


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    found = find("./nowhere", base=tmp_path)
    assert (found.state, found.permanent) == ("broken", True)
    assert found.message == f"there is no model folder at {tmp_path}/nowhere; check source"


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("x")
    assert "is not a folder" in (find("./m", base=tmp_path).message or "")


def test_a_gguf_file_is_refused_by_name() -> None:
    assert "not supported yet" in (find("org/repo/model.gguf").message or "")


def test_files_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models.write(tmp_path, models.model())

    def refuse(file: Path) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    with monkeypatch.context() as patch:
        patch.setattr(headers, "read", refuse)
        first = find(str(tmp_path))
    assert "permission denied" in (first.message or "")
    second = find(str(tmp_path))
    assert second.state == "present"  # nothing was remembered
    assert second.fingerprint != first.fingerprint


# --- the fingerprint, and not looking twice -------------------------------------------------------


def test_an_unchanged_folder_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models.write(tmp_path, models.model())
    first = find(str(tmp_path))
    monkeypatch.setattr(headers, "read", lambda file: pytest.fail(f"read {file} again"))
    assert find(str(tmp_path)) == first


@pytest.mark.parametrize("change", ["rewrite", "touch", "add", "replace"])
def test_the_fingerprint_changes_with_the_files(tmp_path: Path, change: str) -> None:
    models.write(tmp_path, models.model())
    before = find(str(tmp_path)).fingerprint
    weights = tmp_path / "model.safetensors"
    if change == "rewrite":
        weights.write_bytes(models.weights(8))
    elif change == "touch":
        os.utime(weights, ns=(1, 1))
    elif change == "add":
        (tmp_path / "extra.json").write_text("{}")
    else:
        data, times = weights.read_bytes(), weights.stat()
        fresh = tmp_path.parent / "fresh"
        fresh.write_bytes(data)
        os.utime(fresh, ns=(times.st_atime_ns, times.st_mtime_ns))
        fresh.replace(weights)  # same size and time, another inode
    assert find(str(tmp_path)).fingerprint != before


def test_a_broken_folder_is_seen_again_once_it_is_mended(tmp_path: Path) -> None:
    files = models.model()
    models.write(tmp_path, {**files, "model.safetensors": files["model.safetensors"][:-1]})
    was = find(str(tmp_path))
    models.write(tmp_path, files)
    now = find(str(tmp_path))
    assert (was.state, now.state) == ("broken", "present")
    assert was.fingerprint != now.fingerprint


# --- the hub's cache ------------------------------------------------------------------------------


def test_a_repo_that_is_not_in_the_cache_is_absent(cache: Path) -> None:
    found = find("org/name", cache=cache)
    assert (found.state, found.permanent, found.path) == ("absent", False, None)
    assert wanted("org/name", cache=cache) == [Wanted("org/name", None)]


@pytest.mark.parametrize("revision", [None, "main", COMMIT, COMMIT[:7]])
def test_a_cached_repo_is_found_by_branch_and_commit(cache: Path, revision: str | None) -> None:
    snapshot = cached(cache, "org/name", models.model())
    found = find("org/name", revision, cache=cache)
    assert (found.state, found.path) == ("present", str(snapshot))
    assert wanted("org/name", revision, cache=cache) == []


@pytest.mark.parametrize("revision", ["other", "fedcba9", "f" * 40])
def test_another_revision_is_absent(cache: Path, revision: str) -> None:
    cached(cache, "org/name", models.model())
    found = find("org/name", revision, cache=cache)
    assert found.state == "absent"
    assert revision in (found.message or "")


def test_a_short_commit_that_fits_two_is_absent(cache: Path) -> None:
    cached(cache, "org/name", models.model(), ref=None)
    cached(cache, "org/name", models.model(seed=1), commit=COMMIT[:8] + "f" * 32, ref=None)
    assert find("org/name", COMMIT[:7], cache=cache).state == "absent"


def test_a_snapshot_that_still_lacks_a_shard_is_absent_not_broken(cache: Path) -> None:
    files = models.sharded()
    del files["model-00002-of-00002.safetensors"]
    cached(cache, "org/name", files)
    assert find("org/name", cache=cache).state == "absent"


def test_a_link_to_a_blob_that_is_gone_is_absent(cache: Path) -> None:
    snapshot = cached(cache, "org/name", models.model())
    (snapshot / "model.safetensors").resolve().unlink()
    assert find("org/name", cache=cache).state == "absent"


def test_damaged_weights_in_the_cache_are_broken(cache: Path) -> None:
    files = models.model()
    cached(cache, "org/name", {**files, "model.safetensors": files["model.safetensors"][:-9]})
    assert find("org/name", cache=cache).state == "broken"


def test_a_link_out_of_the_cache_is_refused(cache: Path, tmp_path: Path) -> None:
    snapshot = cached(cache, "org/name", models.model())
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(models.weights())
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(outside)
    found = find("org/name", cache=cache)
    assert found.state == "broken"
    assert "leads out of the model cache" in (found.message or "")


@pytest.mark.parametrize("repo", ["../x", "a..b/c", "org/name.git"])
def test_names_that_are_no_repos_are_broken_not_looked_up(cache: Path, repo: str) -> None:
    assert find(repo, cache=cache, base=cache).state == "broken"


def test_a_ref_that_is_no_commit_is_absent(cache: Path) -> None:
    cached(cache, "org/name", models.model(), ref=None)
    models.write(cache / "models--org--name/refs", {"main": b"../../../etc"})
    assert find("org/name", cache=cache).state == "absent"


# --- adapters -------------------------------------------------------------------------------------

ADAPTER = {"adapter_config.json": b'{"rank": 8}', "adapters.safetensors": models.weights(2)}


def test_an_adapters_bytes_are_counted_apart(tmp_path: Path) -> None:
    models.write(tmp_path / "m", models.model(kib=4))
    models.write(tmp_path / "a", ADAPTER)
    plain, found = find("./m", base=tmp_path), find("./m", None, "./a", tmp_path)
    assert (found.state, found.weights_bytes, found.adapter_bytes) == ("present", 4096, 2048)
    assert found.fingerprint != plain.fingerprint


def test_a_broken_adapter_breaks_the_model_and_says_so(tmp_path: Path) -> None:
    models.write(tmp_path / "m", models.model())
    models.write(tmp_path / "a", {"adapter_config.json": b"{}"})
    found = find("./m", None, "./a", tmp_path)
    assert (found.state, found.path) == ("broken", None)
    assert (found.message or "").startswith("adapter: ")


def test_an_adapter_from_the_hub_is_wanted_like_a_model(tmp_path: Path, cache: Path) -> None:
    models.write(tmp_path / "m", models.model())
    assert find("./m", None, "org/lora", tmp_path, cache).state == "absent"
    assert wanted("./m", None, "org/lora", tmp_path, cache) == [Wanted("org/lora", None)]
    cached(cache, "org/lora", ADAPTER)
    assert find("./m", None, "org/lora", tmp_path, cache).adapter_bytes == 2048


def test_a_local_source_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    assert locate("./x/../m", None, tmp_path) == tmp_path / "m"
    assert locate("~/m", None, tmp_path) == Path.home() / "m"
