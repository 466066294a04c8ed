"""Terminal sessions in documents: their commands are run, and what they print is written into the page.

`make pictures` runs those of docs/first-hour.md, one by one, against an appliance that serves the lmx.yaml of
this checkout from a folder of its own, and writes the page anew. A test runs them too, and compares with what
the page shows, figures left aside.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "first-hour.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
SHOWN_FOLDER, SHOWN_HOST, SHOWN_PORT = "/Users/ada/lmx", "studio-01", "1234"


@dataclass(frozen=True)
class Place:
    """A folder in which the lmx.yaml of this checkout is served, and its port."""

    folder: Path
    port: int
    env: dict[str, str]

    def run(self, command: str) -> str:
        """What a terminal would show, in the page's own words for folder, host and port."""
        done = subprocess.run(
            ["bash", "-c", command.replace(f":{SHOWN_PORT}", f":{self.port}")],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
        )
        text = done.stdout.replace(str(self.folder.resolve()), SHOWN_FOLDER).replace(str(ROOT), SHOWN_FOLDER)
        text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", SHOWN_HOST, text)
        return text.replace(str(self.port), SHOWN_PORT)


@contextmanager
def served(folder: Path, name: str | None = None) -> Iterator[Place]:
    """The lmx.yaml of this checkout, served until the end. name: of the machine, else its host's."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    text = (ROOT / "lmx.yaml").read_text(encoding="utf-8")
    assert f"port: {SHOWN_PORT}" in text
    # Late answers on a machine that is busy with other tests are no news that a page should tell.
    named = "slo: {ttft_p95: null}\n" + (f"name: {name}\n" if name else "")
    (folder / "lmx.yaml").write_text(text.replace(f"port: {SHOWN_PORT}", f"port: {port}") + named)
    (folder / "examples").symlink_to(ROOT / "examples")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "HOME": str(folder), "PATH": path, "NO_COLOR": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["lmx", "up"], cwd=folder, env=env, stdout=log, stderr=log)
        try:
            subprocess.run(["lmx", "wait", "--timeout", "60s"], cwd=folder, env=env, check=True, timeout=90)
            yield Place(folder, port, env)
        finally:
            process.terminate()
            process.wait(60)


def commands(block: str) -> list[str]:
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


def played(page: str, place: Place) -> str:
    """The page with what its commands print now."""

    def play(found: re.Match[str]) -> str:
        shown = "".join(f"$ {command}\n{_ended(place.run(command))}" for command in commands(found[1]))
        return f"```console\n{shown}```"

    return BLOCK.sub(play, page)


def masked(text: str) -> str:
    """Without what differs from run to run: figures, their units, a speed that is over, widths of columns."""
    text = re.sub(r"\b[0-9a-f]{12,}\b|chatcmpl-\w+", "ID", text)
    text = re.sub(r"\d[\d.,:]*(?: ?(?:GiB|MiB|KiB|ms|[smhd](?![a-z]))(?:\d+[smhd])?)?", "N", text)
    return re.sub(r"[ \t]+", " ", text.replace(" N tokens/s,", ""))


def steady(block: str) -> list[str]:
    """A block as it should look each time, command by command. Of `lmx explain` the events are left out."""
    parts = re.split(r"^(?=\$ )", masked(block), flags=re.MULTILINE)
    return [part.partition("\n\n")[0] if part.startswith("$ lmx explain") else part for part in parts]


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"
