"""Reading a spec from text, and what comes out when it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from reconciler.loader import Loaded, SpecError, load_text

FILE = Path("lmx.yaml")
MINIMAL = "version: 1\nactive: demo\nmodels:\n  demo: {source: ./demo}\n"


def load(text: str | bytes, env: Mapping[str, str] | None = None) -> Loaded:
    return load_text(dedent(text) if isinstance(text, str) else text, path=FILE, env=env or {})


def problems(text: str | bytes, env: Mapping[str, str] | None = None) -> list[str]:
    """The lines a user would see."""
    with pytest.raises(SpecError) as raised:
        load(text, env)
    return str(raised.value).splitlines()


def problem(text: str | bytes, env: Mapping[str, str] | None = None) -> str:
    """The one line a user would see."""
    (only,) = problems(text, env)
    return only
