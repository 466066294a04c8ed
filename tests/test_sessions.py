"""Sessions of models that are not loaded: listed and dropped from their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.prompt_cache import sessions as stored
from appliance.sessions import Sessions
from appliance.supervisor.pool import Engines

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def lay(root: Path, model: str, name: str, used_at: float, scope: str = "") -> None:
    """As an engine of this model writes it."""
    session = stored.Session(name, scope, b"k" * 16, 300, used_at, model)
    folder = root / "1" / f"namespace-of-{model}" / "sessions"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o700)
    file = folder / session.file
    file.write_bytes(stored.encode(session, [b"k" * 16]))
    file.chmod(0o600)


async def test_they_are_told_newest_first_and_without_the_whole_hash_of_a_key(tmp_path: Path) -> None:
    lay(tmp_path, "demo", "old", 1000.0)
    lay(tmp_path, "mini", "new", 2000.0, scope="0123456789abcdef0123456789abcdef")
    found = await Sessions(Engines(tmp_path), lambda: tmp_path).held()
    assert [(s["name"], s["model"], s["key"], s["loaded"]) for s in found] == [
        ("new", "mini", "01234567", False),
        ("old", "demo", None, False),
    ]


async def test_one_or_all_of_a_model_or_of_all_are_dropped(tmp_path: Path) -> None:
    for model in ("demo", "mini"):
        for name in ("a", "b", "c"):
            lay(tmp_path, model, name, 1000.0)
    desk = Sessions(Engines(tmp_path), lambda: tmp_path)

    async def left() -> list[str]:
        return sorted(f"{s['model']}/{s['name']}" for s in await desk.held())

    assert len(await desk.drop("a", None)) == 2
    assert await left() == ["demo/b", "demo/c", "mini/b", "mini/c"]
    assert [s["name"] for s in await desk.drop("b", "mini")] == ["b"]
    assert await left() == ["demo/b", "demo/c", "mini/c"]
    assert await desk.drop("b", "nobody") == []
    assert len(await desk.drop(None, "demo")) == 2
    assert await left() == ["mini/c"]
    assert len(await desk.drop(None, None)) == 1
    assert await left() == []


async def test_where_there_is_no_cache_yet_there_are_none(tmp_path: Path) -> None:
    assert await Sessions(Engines(tmp_path), lambda: None).held() == []
    assert await Sessions(Engines(tmp_path), lambda: tmp_path / "none").held() == []
    assert await Sessions(Engines(tmp_path), lambda: tmp_path / "none").drop(None, None) == []
