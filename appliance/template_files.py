"""The text files that LMX fills in: plists, units, pages. Jinja2; a name that is missing is an error."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import appliance

if TYPE_CHECKING:
    import jinja2


def folder() -> Path:
    """Inside the installed package, else in the checkout."""
    package = Path(appliance.__file__).resolve().parent
    inside = package / "templates"
    return inside if inside.is_dir() else package.parent / "templates"


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Text that goes into XML and HTML is escaped; other files bring filters of their own."""
    import jinja2  # not before somebody looks: an appliance that nobody looks at does without its megabytes

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder()),
        autoescape=jinja2.select_autoescape(["plist.j2", "html.j2", "xml.j2"], default=False),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
