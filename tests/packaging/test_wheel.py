"""The wheel works by itself: installed into a fresh environment, in an empty folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel in it; dependencies are borrowed from the one that runs this."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)}))
    site.joinpath("borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", str(wheel)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return home


class Empty:
    """An empty folder, a home of its own, and the installed `lmx`."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home, self.folder = home, folder
        path = f"{home / 'bin'}:{os.environ['PATH']}"
        self.env = {
            "HOME": str(folder),
            "PATH": path,
            "PYTHONWARNINGS": "error",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def __call__(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [self.home / "bin" / "lmx", *words],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == code, f"lmx {words}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def lmx(installed: Path, tmp_path: Path) -> Empty:
    return Empty(installed, tmp_path)


@pytest.fixture
def up(lmx: Empty) -> Iterator[Empty]:
    """`lmx init`, another port, `lmx up`."""
    lmx("init")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = lmx.folder / "lmx.yaml"
    text = file.read_text().replace("# server:", "server:").replace("#   port: 1234", f"  port: {port}")
    file.write_text(text)
    with (lmx.folder / "log").open("w") as log:
        process = subprocess.Popen(
            [lmx.home / "bin" / "lmx", "up"], cwd=lmx.folder, env=lmx.env, stdout=log, stderr=log
        )
        try:
            yield lmx
        finally:
            process.terminate()
            process.wait(30)


def test_it_carries_the_demo_models_the_starter_file_and_nothing_of_the_workshop(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for model in ("lmx-demo", "lmx-demo-mini"):
        assert {f"appliance/models/{model}/{file}" for file in ("config.json", "model.safetensors")} <= names
    assert {"appliance/cli/starter.yaml", "appliance/py.typed", "reconciler/py.typed"} <= names
    packages = {name.partition("/")[0] for name in names}
    assert packages == {"appliance", "reconciler", f"lmx_appliance-{__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name]


def test_the_package_comes_from_the_wheel_and_not_from_the_checkout(lmx: Empty) -> None:
    python = lmx.home / "bin" / "python"
    done = subprocess.run(
        [python, "-c", "import appliance, reconciler; print(appliance.__file__, reconciler.__file__)"],
        cwd=lmx.folder,
        env=lmx.env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert all(path.startswith(str(lmx.home)) for path in done.stdout.split())


def test_init_and_validate_work_in_an_empty_folder(lmx: Empty) -> None:
    lmx("init")
    assert "is valid" in lmx("validate")
    assert lmx("version") == f"lmx {__version__}\n"
    assert "appliance" not in os.listdir(lmx.folder)


def test_up_serves_the_demo_model_from_inside_the_package_and_follows_an_edit(up: Empty) -> None:
    up("wait", "--for", "Ready", "--timeout", "60s")
    assert "LMX" in up("chat", "What is LMX?", "--temperature", "0")
    file = up.folder / "lmx.yaml"
    file.write_text(file.read_text().replace("\nactive: demo\n", "\nactive: mini\n"))
    up("wait", "--for", "Ready", "--digest", "file", "--timeout", "60s")
    assert "active   mini" in up("status")
