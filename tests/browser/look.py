"""A person with a browser: opens the page, waits for what it says, takes pictures, and checks what must hold
of a page in every state."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

LIMIT_MS = 30_000
WIDTHS = {"phone": (390, 844), "laptop": (1280, 800), "wall": (2560, 1440)}
THEMES = ("light", "dark")
SERIOUS = ("serious", "critical")
_NO_CONTACT = re.compile(r"net::ERR_(CONNECTION|INCOMPLETE|EMPTY|NETWORK|SOCKET)")


@dataclass
class Look:
    """An open page. said: what its console said. asked: every address it asked for."""

    page: Page
    home: str
    pictures: Path
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.said.append(message.text)

    def request(self, request: Request) -> None:
        self.asked.append(request.url)

    def says(self, text: str | re.Pattern[str], part: str = "body") -> None:
        """Waits until it does."""
        expect(self.page.locator(part)).to_contain_text(text, timeout=LIMIT_MS)

    def says_not(self, text: str | re.Pattern[str], part: str = "body") -> None:
        expect(self.page.locator(part)).not_to_contain_text(text, timeout=LIMIT_MS)

    def is_sound(self, *, out_of_contact: bool = False) -> None:
        """No error of ours, nothing from elsewhere, nothing serious for axe-core, it fits the screen."""
        said = [one for one in self.said if not (out_of_contact and _NO_CONTACT.search(one))]
        assert said == []
        assert [url for url in self.asked if not url.startswith((self.home, "data:"))] == []
        for width, theme in (("phone", "light"), ("laptop", "dark")):
            self.at(width, theme)
            found = Axe().run(self.page).response["violations"]
            assert [_told(one) for one in found if one["impact"] in SERIOUS] == [], (width, theme)
        self.fits()

    def fits(self) -> None:
        """No sideways scrolling of the page, at any width."""
        for width in WIDTHS:
            self.at(width, "light")
            wide = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, (width, wide)

    def at(self, width: str, theme: str) -> None:
        size = WIDTHS[width]
        self.page.set_viewport_size({"width": size[0], "height": size[1]})
        self.page.emulate_media(color_scheme="dark" if theme == "dark" else "light")

    def pictured(self, name: str) -> None:
        for width in WIDTHS:
            for theme in THEMES:
                self.at(width, theme)
                self.page.screenshot(path=self.pictures / f"{name}-{width}-{theme}.png", full_page=True)


class Looker:
    def __init__(self, browser: Browser, pictures: Path) -> None:
        self.browser, self._pictures = browser, pictures

    @contextmanager
    def at(self, home: str, **more: Any) -> Iterator[Look]:
        """The page at this address. more: for Playwright's new context."""
        context = self.browser.new_context(**more)
        # Nothing but this appliance can be reached; what else is asked for fails, and is seen in `asked`.
        context.route(lambda url: not url.startswith(home), lambda route: route.abort())
        page = context.new_page()
        look = Look(page, home, self._pictures)
        page.on("console", look.console)
        page.on("pageerror", lambda error: look.said.append(str(error)))
        page.on("request", look.request)
        try:
            page.goto(home)
            yield look
        finally:
            context.close()


def _told(violation: dict[str, Any]) -> str:
    where = "; ".join(str(node["target"]) for node in violation["nodes"][:3])
    return f"{violation['id']} ({violation['impact']}): {violation['help']} at {where}"
