"""One Chromium per module: Debian's own, driven by Playwright, which downloads nothing here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.look import Looker

NAMES = ("chromium", "chromium-browser", "google-chrome")


def _chromium() -> str:
    """Its path. Without one these tests are skipped; where CI could have installed it, that is an error."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is not None:
        return found
    why = "no Chromium here: apt-get install chromium fonts-dejavu-core (or CHROMIUM=/path/to/it)"
    if os.environ.get("CI") == "true" and os.geteuid() == 0:
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="module")
def looker() -> Iterator[Looker]:
    path = _chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root Chromium starts only without its sandbox; it sees pages of ours alone. In containers
        # /dev/shm is small.
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield Looker(browser, Path(__file__).resolve().parents[2] / "build" / "dashboard")
        browser.close()
