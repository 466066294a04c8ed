"""What holds for every test: no setting of the person who runs them leaks in."""

from __future__ import annotations

import os
import resource
import signal
import sys

import pytest

for name in list(os.environ):
    if name.startswith("LMX_") or name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CLICOLOR_FORCE"):
        del os.environ[name]

# Tests start hundreds of processes. Those that may not keep compiled modules compile them all anew: 0.17 s
# of the 0.52 s of processor time that `lmx` takes to start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Several engines share the cores, more so with several workers. Threads of OpenBLAS wait for one another by
# spinning: with two a core, twenty swaps under load took a fifth more processor time than with one each.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

# A shell starts its background jobs with ^C ignored, and processes hand that on. Those that tests start
# must be able to hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)


_set_limit = resource.setrlimit


def _keep_hard_limit(kind: int, limits: tuple[int, int]) -> None:
    """mlx-lm lowers the hard limit of open files as it is imported, and nobody can raise it again: what came
    later on the same worker could not hold 2,000 connections, and was skipped."""
    if kind == resource.RLIMIT_NOFILE:
        limits = limits[0], resource.getrlimit(kind)[1]
    _set_limit(kind, limits)


resource.setrlimit = _keep_hard_limit


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first: at the end, one worker would run them while the others have nothing left."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that LMX runs on."""
    return "asyncio"
