from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine that is not up yet; whatever the test leaves running is killed."""
    made = Machine(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine that serves the demo model for all tests of a module, which must leave it as it was."""
    made = Machine(tmp_path_factory.mktemp("shared"))
    made.up()
    yield made
    made.close()
