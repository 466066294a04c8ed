"""The names that lmx.yaml takes for tool_parser are those of the parsers there are."""

from __future__ import annotations

from appliance.engine.answer.formats import NAMES
from reconciler.names import TOOL_PARSERS


def test_the_spec_knows_every_parser() -> None:
    assert tuple(sorted(TOOL_PARSERS)) == NAMES
