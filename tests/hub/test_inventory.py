"""What else lies in the hub's cache."""

from __future__ import annotations

from pathlib import Path

from appliance.hub import inventory
from tests.hub import models
from tests.hub.test_find import COMMIT, cached


def test_an_empty_or_missing_cache_has_nothing(cache: Path) -> None:
    assert inventory(cache) == []


def test_every_complete_revision_is_listed_with_its_size(cache: Path) -> None:
    files = models.model(kib=8)
    cached(cache, "org/b", files)
    cached(cache, "org/a", models.sharded())
    cached(cache, "org/b", models.model(seed=1), commit="f" * 40, ref=None)
    seen = inventory(cache)
    assert [(m.repo, m.commit, m.refs) for m in seen] == [
        ("org/a", COMMIT, ("main",)),
        ("org/b", COMMIT, ("main",)),
        ("org/b", "f" * 40, ()),
    ]
    assert seen[1].size_bytes == sum(len(data) for data in files.values())
    assert (seen[1].weights_bytes, seen[1].parameters, seen[1].model_type) == (8192, 2048, "qwen3")
    assert seen[1].modified > 0


def test_what_is_incomplete_damaged_or_something_else_is_left_out(cache: Path) -> None:
    files = models.model()
    cached(cache, "org/half", {"config.json": files["config.json"]})
    cached(cache, "org/cut", {**files, "model.safetensors": files["model.safetensors"][:-1]})
    models.write(cache / "datasets--org--x/snapshots/abc", files)
    models.write(cache, {"version.txt": b"1", "models--org--file": b"not a folder"})
    cached(cache, "org/good", files)
    assert [m.repo for m in inventory(cache)] == ["org/good"]
