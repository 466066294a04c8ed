"""`lmx up`, as far as it goes before it serves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from appliance.lock import StateLock

UP = """
import atexit, gc
from pathlib import Path
from appliance.cli.up import up
atexit.register(lambda: print("left to collect:", len(gc.get_objects()), "frozen:", gc.get_freeze_count()))
up(Path("lmx.yaml"))
"""


def test_the_collector_does_not_walk_what_was_imported(tmp_path: Path) -> None:
    """A full collection of that stops every stream. Here another holds the state folder: it ends at once."""
    (tmp_path / "lmx.yaml").write_text(
        f"version: 1\nactive: null\nmodels: {{}}\nstate: {{path: {tmp_path / 'state'}}}\n"
    )
    lock = StateLock(tmp_path / "state")
    try:
        ended = subprocess.run(
            [sys.executable, "-c", UP], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
    finally:
        lock.release()
    assert "another LMX" in ended.stderr
    words = ended.stdout.split()
    assert int(words[-1]) > 20_000, ended.stdout
    assert int(words[-3]) < 10_000, ended.stdout
