"""What documents show as a whole lmx.yaml is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reconciler.loader import load_text

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
EXAMPLES = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in sorted(ROOT.glob("docs/**/*.md"))
    for number, block in enumerate(
        re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    )
    if re.search(r"^version: 1$", block, re.MULTILINE)
]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_is_valid(text: str) -> None:
    assert load_text(text, path=Path("lmx.yaml"), env={}).spec.version == 1
