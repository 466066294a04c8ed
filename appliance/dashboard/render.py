"""The page's parts as markup, and the page around them. Nothing from outside."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import appliance
from appliance.dashboard import wording
from appliance.dashboard.view import View
from appliance.template_files import environment, folder

# Nothing but what this server sends itself: no script in the page, no form, in nobody's frame.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The macros of dashboard_parts.html.j2, in the order of the page. `attention` is empty when all is well.
PARTS = (
    "heading",
    "attention",
    "state",
    "conditions",
    "plan",
    "memory",
    "charts",
    "models",
    "history",
    "events",
    "diff",
)
_COUNTED = re.compile(r"(<time [^>]*>)[^<]*")


@lru_cache(maxsize=4)
def asset(name: str) -> bytes:
    """`dashboard.css` or `dashboard.js`."""
    return (folder() / name).read_bytes()


@lru_cache(maxsize=1)
def build() -> str:
    """Changes with anything that an open page has loaded."""
    parts = [appliance.__version__.encode(), asset("dashboard.css"), asset("dashboard.js")]
    parts += [(folder() / name).read_bytes() for name in ("dashboard.html.j2", "dashboard_parts.html.j2")]
    return hashlib.blake2b(b"\0".join(parts), digest_size=6).hexdigest()


def parts(view: View) -> dict[str, str]:
    """By name, in the order of PARTS. Each is one element, but for a diff that is not there."""
    template = environment().get_template("dashboard_parts.html.j2")
    module = template.make_module({"view": view, "status": view.status, "words": wording})
    return {name: str(getattr(module, name)()).strip() for name in PARTS}


def same(one: str, other: str) -> bool:
    """But for how long ago things were: the page counts that itself."""
    return one == other or _COUNTED.sub(r"\1", one) == _COUNTED.sub(r"\1", other)


def title(view: View) -> str:
    return f"{view.status['name']}: {view.status['summary']}"


def page(view: View, made: dict[str, str] | None = None) -> bytes:
    """made: its parts, where they are there already."""
    template = environment().get_template("dashboard.html.j2")
    values = {"parts": parts(view) if made is None else made, "title": title(view), "build": build()}
    return template.render(**values, at=view.now, summary=view.status["summary"]).encode()
