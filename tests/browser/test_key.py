"""A browser where `server.api_keys` is set: it is asked for the key, and its event stream has it too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from appliance.access.desk import Access
from tests.browser.look import LIMIT_MS, Looker
from tests.browser.site import Site, site

KEY, OTHER = "sk-reader-7f3a9c51e8d24b60", "sk-others-7f3a9c51e8d24b60"


@pytest.fixture
def made() -> Iterator[Site]:
    with site({"LMX_KEYS": KEY}) as running:
        running.board.set(api_keys={"env": "LMX_KEYS"})
        yield running


def test_the_key_as_password_opens_the_page_and_its_stream(made: Site, looker: Looker) -> None:
    login = {"username": "anybody", "password": KEY}
    with looker.at(made.home, http_credentials=login) as look:
        look.says("Ready", ".summary")
        made.status["summary"] = "Degraded"
        made.seconds(1)
        look.says("Degraded", ".summary")  # came through the stream
        right, made.board.access = made.board.access, Access(Path("/nowhere"), {"LMX_KEYS": OTHER})
        made.restart()
        look.says("Its API key is not taken any more", "#contact")
        made.board.access = right
        look.page.reload()
        expect(look.page.locator("#contact")).to_be_empty(timeout=LIMIT_MS)
        look.says("Degraded", ".summary")
        assert [one for one in look.said if "401" not in one and "net::ERR" not in one] == []
