"""What the parent finds out about `cache.path` before any engine runs."""

from __future__ import annotations

import stat
from pathlib import Path

from appliance.cache_folder import CacheFolder
from reconciler.spec import Cache, Model, Spec


def spec(path: str, source: str = "./model", **cache: int) -> Spec:
    base = Spec.model_validate({"version": 1, "active": None, "models": {}})
    return base.model_copy(update={"cache": Cache(path=path, **cache), "models": {"m": Model(source=source)}})


def test_a_folder_that_is_not_there_is_made_for_this_user_alone(tmp_path: Path) -> None:
    wanted = spec("./deep/cache")
    assert CacheFolder(wanted, tmp_path).problem(wanted) is None
    assert stat.S_IMODE((tmp_path / "deep/cache").stat().st_mode) == 0o700


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    for path in ("./cache", "./cache/below"):
        wanted = spec(path)
        assert f"cache.path {tmp_path / path} cannot be made" in (
            CacheFolder(wanted, tmp_path).problem(wanted) or ""
        )


def test_a_link_into_a_models_folder_is_told(tmp_path: Path) -> None:
    """The file's own words cannot show it."""
    (tmp_path / "model" / "inside").mkdir(parents=True)
    (tmp_path / "cache").symlink_to(tmp_path / "model" / "inside")
    wanted = spec("./cache")
    assert "leads into a model's folder" in (CacheFolder(wanted, tmp_path).problem(wanted) or "")
    other = spec("./cache", source="./elsewhere")
    assert CacheFolder(other, tmp_path).problem(other) is None


def test_nothing_is_made_where_the_disk_is_not_used(tmp_path: Path) -> None:
    wanted = spec("./cache", disk=0)
    assert CacheFolder(wanted, tmp_path).problem(wanted) is None
    assert not (tmp_path / "cache").exists()
