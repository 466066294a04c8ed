"""The page as bytes, made anew once a second at most, however many look at it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import lru_cache

from appliance.dashboard import wording
from appliance.dashboard.view import View
from appliance.template_files import environment, folder

FRESH_S = 1.0
# Nothing but what this server sends itself: no script in the page, no form, in nobody's frame.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@lru_cache(maxsize=4)
def asset(name: str) -> bytes:
    """`dashboard.css` or `dashboard.js`."""
    return (folder() / name).read_bytes()


def page(view: View) -> bytes:
    template = environment().get_template("dashboard.html.j2")
    return template.render(view=view, status=view.status, words=wording).encode()


class Page:
    """make: the view as it is now."""

    def __init__(self, make: Callable[[], View]) -> None:
        self._make = make
        self._made: tuple[float, bytes, str] | None = None

    def now(self) -> tuple[bytes, str]:
        """The page, and its entity tag."""
        at = time.monotonic()
        if self._made is None or at - self._made[0] >= FRESH_S:
            body = page(self._make())
            self._made = at, body, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        return self._made[1], self._made[2]
