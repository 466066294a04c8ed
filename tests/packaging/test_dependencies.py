"""The lock, the licences and the import contract."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(lock: str) -> list[Requirement]:
    lines = (line for line in lock.splitlines() if re.match(r"[a-z0-9]", line))
    return [Requirement(line.removesuffix("\\").strip()) for line in lines]


LOCK = (ROOT / "requirements.lock").read_text()
RUN_LOCK = (ROOT / "requirements-run.lock").read_text()
PINS = pins(LOCK)
RUNTIME = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
DEVELOPMENT = [Requirement(text) for text in PROJECT["dependency-groups"]["dev"]]


def test_the_lock_satisfies_every_dependency_on_every_platform_it_names() -> None:
    for wanted in (*RUNTIME, *DEVELOPMENT):
        found = [pin for pin in PINS if canonicalize_name(pin.name) == canonicalize_name(wanted.name)]
        assert found, f"{wanted}: run make lock"
        for pin in found:
            (exact,) = pin.specifier
            assert wanted.specifier.contains(Version(exact.version)), f"{wanted}: {pin}: run make lock"


def test_what_serving_takes_is_locked_to_the_same_and_is_far_less() -> None:
    served = pins(RUN_LOCK)
    assert {(pin.name, pin.specifier) for pin in served} <= {(pin.name, pin.specifier) for pin in PINS}
    names = {canonicalize_name(pin.name) for pin in served}
    for wanted in (*RUNTIME, *map(Requirement, PROJECT["dependency-groups"]["run"])):
        assert canonicalize_name(wanted.name) in names, f"{wanted}: run make lock"
    assert not names & {"pytest", "playwright", "mypy", "openai", "matplotlib"}
    assert RUN_LOCK.count("--hash=sha256:") >= len(served)
    assert "://" not in RUN_LOCK


def test_the_lock_pins_exactly_and_with_hashes_and_names_no_host() -> None:
    for pin in PINS:
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert pin.url is None
    entries = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) == len(PINS)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in LOCK
    assert "--index-url" not in LOCK


def test_mlx_comes_in_the_form_each_system_needs() -> None:
    def on(system: str, name: str) -> bool:
        environment = {"sys_platform": system, "platform_system": system.capitalize()}
        found = [pin for pin in PINS if pin.name == name]
        return any(pin.marker is None or pin.marker.evaluate(environment) for pin in found)

    assert on("linux", "mlx")
    assert on("linux", "mlx-cpu")
    assert on("darwin", "mlx")
    assert on("darwin", "mlx-metal")
    assert not on("darwin", "mlx-cpu")
    assert not on("linux", "mlx-metal")


def test_no_dependency_is_under_a_licence_that_would_reach_the_users_code() -> None:
    waiting, seen = [canonicalize_name(wanted.name) for wanted in RUNTIME], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            package = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform
        words = [package.get("License-Expression") or package.get("License") or ""]
        words += [text for text in package.get_all("Classifier") or [] if text.startswith("License")]
        first = " ".join(word.partition("\n")[0] for word in words)
        assert not re.search(r"\bA?GPL|GNU (Affero )?General Public", first), f"{name}: {first}"
        for text in metadata.requires(name) or []:
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(wanted.name))
    assert len(seen) > 30


@pytest.mark.parametrize(
    ("module", "statement", "broken"),
    [
        ("reconciler/loop.py", "import appliance.wire", "The control plane knows neither"),
        ("reconciler/backoff.py", "import asyncio", "Deciding is pure"),
        ("appliance/app.py", "import mlx.core", "Only the engine's own process imports MLX"),
        ("appliance/supervisor/pool.py", "import appliance.engine", "Nothing reaches into the engine"),
        ("appliance/engine/process.py", "import sanic", "An engine process carries neither"),
        ("appliance/skills/loop.py", "import mcp", "MCP is spoken in a skill's own process only"),
        ("appliance/app.py", "import appliance.skills.host", "Nothing reaches into a skill's process"),
    ],
    ids=["seam", "pure", "mlx", "engine", "child", "mcp", "skill"],
)
def test_the_import_contract_notices(tmp_path: Path, module: str, statement: str, broken: str) -> None:
    for package in ("appliance", "reconciler"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{statement}\n")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as run; run()",
            "--no-cache",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert line.startswith(broken)
