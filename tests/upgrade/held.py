"""A real appliance under the real holder, and the verbs as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import yaml

from appliance.holder.place import Place
from tests.e2e.machine import LIMIT_S, MINI, ROOT, Machine

DRAIN_S = 8


class Held(Machine):
    """`lmx serve` in a folder of its own. `process` is the holder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.command = [sys.executable, "-P", "-m", "appliance.cli", "serve", "-f", str(self.file)]
        self.env = {"PYTHONWARNINGS": "error", "TMPDIR": str(folder)}

    def spec(self, **changes: Any) -> dict[str, Any]:
        mini = {"source": str(MINI), "sampling": {"temperature": 0}, "concurrency": 16}
        usual = {
            "active": "mini",
            "models": {"mini": mini},
            "swap": {"drain_timeout": f"{DRAIN_S}s", "load_timeout": "60s"},
            "cache": {"path": str(self.folder / "cache")},
        }
        return super().spec(**{**usual, **changes})

    def write_profile(self, name: str) -> None:
        """All that the file says, under a name of its own."""
        text = yaml.safe_dump({"extends": self.file.name, "name": name}, sort_keys=False)
        (self.folder / f"lmx.{name}.yaml").write_text(text, encoding="utf-8")

    def verb(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`lmx WORDS`, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "appliance.cli", words[0], "-f", str(self.file), *words[1:]],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "PYTHONPATH": str(ROOT)},
        )

    def upgraded(self, *words: str) -> dict[str, Any]:
        """The outcome of a verb that must succeed."""
        done = self.verb(*words, "-o", "json")
        assert done.returncode == 0, f"{done.stderr}\n{self.tail()}"
        return dict(json.loads(done.stdout))

    def service(self) -> dict[str, Any]:
        return dict(self.status()["service"])

    def place(self) -> Place:
        place = Place(self.file)
        place.folder = self.folder / ".lmx/holders"
        return place

    def appliances(self) -> list[psutil.Process]:
        """The holder's children that run now."""
        return self.engines()

    def until_alone(self) -> None:
        """One appliance is left: the others have drained."""
        self.until_engines(1)

    def pythons(self, mode: str) -> Path:
        """A `python` that is another LMX: see `other`."""
        path = self.folder / f"python-{mode}"
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m tests.upgrade.other {mode} "$@"\n')
        path.chmod(0o755)
        return path

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait(LIMIT_S)
            for one in below:
                if one.is_running():
                    one.kill()
            psutil.wait_procs(below, LIMIT_S)
