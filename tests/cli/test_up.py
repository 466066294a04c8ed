"""`lmx up`, as far as it goes before it serves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from appliance.lock import StateLock
from tests.e2e.machine import free_port

LMX = [sys.executable, "-m", "appliance.cli"]

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


def test_the_log_goes_to_its_own_file_and_secrets_come_from_another(tmp_path: Path) -> None:
    """As a service starts it. The variable is in the spec, and its value in no log line."""
    secrets, log = tmp_path / "secrets", tmp_path / "logs" / "lmx.log"
    secrets.write_text("LMX_NAME=studio-hidden\n", encoding="utf-8")
    secrets.chmod(0o600)
    file = tmp_path / "lmx.yaml"
    file.write_text(
        f"version: 1\nname: ${{LMX_NAME}}\nactive: null\nmodels: {{}}\nstate: {{path: {tmp_path}/state}}\n"
        f"server: {{host: 127.0.0.1, port: {free_port()}}}\n",
        encoding="utf-8",
    )
    command = [*LMX, "up", "-f", str(file), "--log-file", str(log), "--env-file", str(secrets)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 60
            while not (log.exists() and b"SpecAccepted" in log.read_bytes()):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.terminate()
            out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, b"", b"")
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert lines[-1]["event"] == "Stopped"
    assert "studio-hidden" not in log.read_text(encoding="utf-8")


def test_a_file_of_secrets_that_others_may_read_is_refused(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.write_text("LMX_NAME=x\n", encoding="utf-8")
    secrets.chmod(0o644)
    done = subprocess.run(
        [*LMX, "up", "--env-file", str(secrets)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"chmod 600 {secrets}" in done.stderr
