"""The worked example of docs/skills.md works."""

from __future__ import annotations

import json
import re
from datetime import date, timedelta
from pathlib import Path

import pytest

from appliance.skills.messages import OUTCOMES
from tests.reconciler.spec.reading import load
from tests.skills.conftest import Workshop

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "skills.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


async def test_the_function_and_the_file_are_what_they_say(workshop: Workshop) -> None:
    loaded = load("version: 1\nactive: null\nmodels: {}\n" + block("yaml"))
    assert loaded.warnings == ()
    assert list(loaded.spec.skills) == ["forecast", "files", "wiki"]
    workshop.write(block("python"))
    workshop.skills.apply({"forecast": loaded.spec.skills["forecast"]})
    tomorrow = date.today() + timedelta(days=1)  # noqa: DTZ011 - as the example's own
    done = await workshop.call("forecast", city="Paris", day=tomorrow.isoformat())
    assert json.loads(done.text) == {"city": "Paris", "sky": "sunny", "degrees": 21}
    assert (await workshop.call("forecast", city="Paris", day="2020-01-01")).outcome == "refused"


def test_every_outcome_is_explained() -> None:
    for outcome in (*OUTCOMES, "not_run"):
        assert f"| `{outcome}` |" in PAGE
