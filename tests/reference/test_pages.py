"""The pages of docs/reference say what the code says."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from appliance.cli.verbs import app
from appliance.errors import CODES
from appliance.reference import codes, verbs
from appliance.reference.__main__ import PAGES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.FILE)
def test_a_page_is_what_the_code_says(page: ModuleType) -> None:
    written = (ROOT / page.FILE).read_text(encoding="utf-8")
    assert written == page.text(), "python -m appliance.reference writes it anew"


def test_every_error_code_has_a_when_and_a_remedy_and_none_is_made_up() -> None:
    known = codes.meanings()
    assert set(known) == set(CODES)
    for code, (when, remedy) in known.items():
        assert when.endswith("."), code
        assert remedy.endswith("."), code


def test_every_verb_is_there_with_every_option() -> None:
    page = verbs.text()
    sections = dict(re.findall(r"^## (lmx .*?)$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    group = typer.main.get_group(app)
    leaves: dict[str, Any] = {}
    for name, command in group.commands.items():
        below = getattr(command, "commands", None)
        leaves |= {f"{name} {verb}": leaf for verb, leaf in below.items()} if below else {name: command}
    assert len(leaves) > 40
    for name, leaf in leaves.items():
        for param in leaf.params:
            if not getattr(param, "hidden", False) and param.name != "help":
                shown = param.opts[-1] if param.param_type_name == "option" else param.metavar
                assert (shown or param.name.upper()) in sections[f"lmx {name}"], (name, param.name)
    for status in (0, 1, 2, 3, 4, 130):
        assert re.search(rf"^\| {status} \| \S", page, re.MULTILINE), status
