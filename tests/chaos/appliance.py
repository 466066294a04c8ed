"""The appliance that chaos happens to: its file in layers, its disk, and what can be done to it."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.machine import DEMO, MINI, Machine

MIB = 2**20
DISK_MIB = 96
CACHE_MIB = 16  # of it, for cached prompts: some have to give way
BUDGET_MIB = 900


class Missed(Exception):
    """There was nothing to hit: no engine ran, for one. Not counted as a fault."""


class Appliance(Machine):
    """One state folder on a disk of its own that can be filled. `layers`: what edits lay over the usual."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.controls = folder / "controls"
        self.hogs = self.controls / "hogs"  # one file per hog, named after its process
        self.hogs.mkdir(parents=True)
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.mounted = _mount(self.disk)
        self.log = self.disk / "up.log"
        self.layers: dict[str, dict[str, Any]] = {}
        self.command = [
            *(sys.executable, "-W", "error", "-m", "tests.chaos.up"),
            *(str(self.file), str(self.controls)),
        ]

    @property
    def state(self) -> Path:
        return self.disk / "state"

    @property
    def cache(self) -> Path:
        return self.disk / "cache"

    def usual(self) -> dict[str, Any]:
        greedy = {"temperature": 0}
        return {
            "version": 1,
            "active": "demo",
            "models": {
                "demo": {"source": str(DEMO), "sampling": greedy, "concurrency": 8},
                "mini": {
                    "source": str(MINI),
                    "sampling": greedy,
                    "concurrency": 4,
                    "priority": 50,
                    "residency": "on_demand",
                    "idle_timeout": "5s",
                    "min_residency": "2s",
                },
            },
            "memory": {"budget": f"{BUDGET_MIB}MiB", "dwell": "1s"},
            "context": {"safe_mode": 2048},
            "queue": {"depth": 64, "timeout": "20s"},
            "swap": {"drain_timeout": "5s", "load_timeout": "60s"},
            "state": {"path": str(self.state)},
            "cache": {"path": str(self.cache), "disk": f"{CACHE_MIB}MiB"},
            "server": {"host": "127.0.0.1", "port": self.port},
        }

    def save(self) -> None:
        """The usual with all layers over it."""
        spec = copy.deepcopy(self.usual())
        for layer in self.layers.values():
            for key, value in layer.items():
                spec[key] = {**spec.get(key, {}), **value} if isinstance(value, dict) else value
        self.write(spec)

    def lay(self, name: str, **changes: Any) -> None:
        self.layers[name] = changes
        self.save()

    def lift(self, name: str) -> None:
        self.layers.pop(name, None)
        self.save()

    def parent(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)

    def an_engine(self, pick: int) -> psutil.Process:
        """One of those that run now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            running = sorted(self.engines(), key=lambda p: p.pid)
            if running:
                return running[pick % len(running)]
        raise Missed("no engine runs")

    def control(self, name: str, value: Any) -> None:
        """Write a control file whole; None removes it."""
        path = self.controls / name
        if value is None:
            path.unlink(missing_ok=True)
            return
        new = path.with_name(f"{name}.new")
        new.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        os.replace(new, path)

    def ours(self) -> list[psutil.Process]:
        """Every process of this appliance, wherever it hangs in the tree."""
        return [p for p in psutil.process_iter() if str(self.controls) in " ".join(_words(p))]

    def close(self) -> None:
        super().close()
        for process in self.ours():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=True)


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.cmdline()
    return []


def _mount(folder: Path) -> bool:
    """A small disk of its own, where we may: else filling it is done by a limit on the size of files."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


@contextlib.contextmanager
def appliance(folder: Path) -> Iterator[Appliance]:
    made = Appliance(folder)
    try:
        yield made
    finally:
        made.close()
