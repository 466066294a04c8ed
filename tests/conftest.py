"""What holds for every test: no setting of the person who runs them leaks in."""

from __future__ import annotations

import os
import signal

import pytest

for name in list(os.environ):
    if name.startswith("LMX_") or name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CLICOLOR_FORCE"):
        del os.environ[name]

# A shell starts its background jobs with ^C ignored, and processes hand that on. Those that tests start
# must be able to hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that LMX runs on."""
    return "asyncio"
