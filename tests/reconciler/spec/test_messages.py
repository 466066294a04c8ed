"""Each mistake gets a line that says where it is, what is wrong and what to write instead.

The words are in `mistakes.txt`, so that a change of wording is read as users will read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reconciler.spec.reading import MINIMAL, load, problem, problems

MISTAKES = Path(__file__).with_name("mistakes.txt")


def records() -> Iterator[object]:
    """Title, environment, text of the file and the lines expected of each record."""
    for record in MISTAKES.read_text(encoding="utf-8").split("\n=== ")[1:]:
        title, _, rest = record.partition("\n")
        text, _, expected = rest.partition("\n=>\n")
        env: dict[str, str] = {}
        while text.startswith("env "):
            line, _, text = text.partition("\n")
            name, _, value = line.removeprefix("env ").partition("=")
            env[name] = value
        yield pytest.param(env, text + "\n", expected.strip().splitlines(), id=title)


@pytest.mark.parametrize(("env", "text", "expected"), list(records()))
def test_a_mistake_is_told_in_these_words(env: dict[str, str], text: str, expected: list[str]) -> None:
    assert problems(text, env) == expected


def test_a_thousand_mistakes_do_not_make_a_thousand_lines() -> None:
    lines = problems(MINIMAL + "".join(f"key{number}: 1\n" for number in range(1000)))
    assert len(lines) == 26
    assert lines[-1] == "... and 975 more"


def test_what_a_terminal_should_not_print_is_quoted() -> None:
    assert problem(MINIMAL + '"\\e[31mred": 1\n').isprintable()
    assert problem(MINIMAL + 'name: ["\\e[31mred"]\n').isprintable()
    assert problem(MINIMAL + 'active: "\\e[31mred"\n').isprintable()


def test_four_lines_are_enough() -> None:
    spec = load(MINIMAL).spec
    assert spec.active == "demo"
    assert spec.server.port == 1234
    assert spec.models["demo"].idle_timeout == 1800.0
