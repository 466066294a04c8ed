"""Python, processor, MLX and memory."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from appliance.doctor.finding import Finding
from appliance.host.levels import human

ENOUGH_FILES = 4096
LITTLE_MEMORY = 8 * 2**30
PROBE_S = 120.0

# In a process of its own: the parent never imports MLX, and a Metal that is broken may abort.
PROBE = """
import json, sys
sys.path.insert(0, ROOT)
from appliance.engine.process import load_openblas
blas = load_openblas()
import mlx.core as mx
from importlib.metadata import version
info = mx.device_info() if mx.metal.is_available() else {}
a = mx.ones((64, 64)); mx.eval(a @ a)
print(json.dumps({"mlx": version("mlx"), "mlx_lm": version("mlx-lm"), "metal": mx.metal.is_available(),
    "device": str(mx.default_device()), "blas": blas,
    "working_set": int(info.get("max_recommended_working_set_size", 0))}))
"""


def python() -> Iterator[Finding]:
    version = platform.python_version()
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever started us with an older one should hear it
        yield Finding("python", "bad", f"Python {version} is too old", "install Python 3.11 or newer")
    else:
        yield Finding("python", "ok", f"Python {version} at {sys.executable}")
    system, processor = platform.system(), platform.machine()
    if system == "Darwin" and processor != "arm64":
        yield Finding(
            "processor",
            "bad",
            f"this Python is built for {processor}, so Metal is out of its reach",
            "install a Python for Apple silicon (arm64) and make the virtual environment anew",
        )
    elif system not in ("Darwin", "Linux"):
        yield Finding("processor", "bad", f"LMX does not run on {system}", "use macOS or Linux")
    else:
        yield Finding("processor", "ok", f"{system} on {processor}")


def mlx(probe: str = PROBE) -> Iterator[Finding]:
    """Starts MLX once, as an engine does. probe: for tests."""
    root = str(Path(__file__).resolve().parents[2])
    try:
        done = subprocess.run(
            [sys.executable, "-c", probe.replace("ROOT", repr(root))],
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield Finding("mlx", "bad", f"MLX did not start within {PROBE_S:g} s", "restart the machine")
        return
    if done.returncode != 0:
        why = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"status {done.returncode}"
        yield Finding("mlx", "bad", f"MLX does not start: {why}", "install LMX anew: `make up` does it")
        return
    found = json.loads(done.stdout.splitlines()[-1])
    yield Finding("mlx", "ok", f"mlx {found['mlx']}, mlx-lm {found['mlx_lm']}, on {found['device']}")
    if found["metal"]:
        yield Finding("metal", "ok", f"recommended working set {human(found['working_set'])}")
    elif sys.platform == "darwin":
        yield Finding(
            "metal", "bad", "MLX finds no Metal device", "run it on the machine itself, not in a container"
        )
    elif found["blas"] is None:
        yield Finding(
            "blas",
            "look",
            "MLX uses the BLAS it came with, which is some ten times slower here",
            "apt-get install libopenblas0-pthread",
        )
    else:
        yield Finding("blas", "ok", f"MLX's CPU backend uses {found['blas']}")


def memory() -> Iterator[Finding]:
    from appliance.host import platform as host

    seen = host().read()
    if not seen.total_bytes:
        yield Finding("memory", "unknown", "the system does not tell how much memory there is")
        return
    text = f"{human(seen.total_bytes)} in all, {human(seen.available_bytes)} free"
    if seen.total_bytes < LITTLE_MEMORY:
        yield Finding("memory", "look", text, "serve small models, in 4 bits")
    elif seen.available_bytes < seen.total_bytes // 10:
        yield Finding("memory", "look", text, "close what is not needed: models get what is left")
    else:
        yield Finding("memory", "ok", text)


def files() -> Iterator[Finding]:
    """`lmx up` raises the soft limit by itself; the hard one it cannot."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < ENOUGH_FILES:
        yield Finding(
            "open files",
            "look",
            f"at most {hard} files and connections",
            f"raise the hard limit to {ENOUGH_FILES} or more, as `lmx launchd` and `lmx systemd` do",
        )
    else:
        most = "any number of" if hard == resource.RLIM_INFINITY else f"up to {hard}"
        yield Finding("open files", "ok", f"{most} files and connections")
