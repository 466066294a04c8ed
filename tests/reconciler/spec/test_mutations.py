"""Whatever happens to a file, it either loads or says where it is wrong. Nothing else ever comes out."""

from __future__ import annotations

from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconciler.loader import Problem, SpecError, load_text

VALID = Path(__file__).with_name("everything.yaml").read_text(encoding="utf-8")
SPICE = st.sampled_from(
    [
        ":",
        "-",
        "{",
        "}",
        "[",
        "]",
        "&a",
        "*a",
        "<<:*one",
        "!!int",
        "'",
        '"',
        "#",
        "|",
        ">",
        "%",
        "@",
        "?",
        "\\",
        ",",
        "${LMX_A}",
        "${",
        "$${",
        "null",
        "~",
        "1e999",
        "0x1F",
        "010",
        ".inf",
        "yes",
        "2001-01-01",
        "99999999999999999999999999999999999999999999",
        '"\\U0011FFFF"',
        '"\\uD800"',
        "😀",
    ]
    + [
        "\t",
        "\n",
        " ",
        ": ",
        "- ",
        "---\n",
        "...\n",
        "%YAML 3.0\n",
        "\x00",
        "\ufeff",
        "\u2028",
        "\x85",
        "\ud800",
    ]
)


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """The valid file with a few pieces cut, doubled, moved or spiced."""
    text = VALID
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 60)))
        piece = draw(st.one_of(st.just(""), st.just(text[start:end] * 2), SPICE, st.text(max_size=12)))
        text = text[:start] + piece + text[end:]
    return text


def loads_or_says_where(content: str | bytes) -> None:
    found: tuple[Problem, ...] = ()
    try:
        load_text(content, path=Path("lmx.yaml"), env={"LMX_A": "1", "LMX_NAME": "x"})
    except SpecError as error:
        found = error.problems
        lines = str(error).split("\n")
        assert found, "a refusal has a reason"
        assert all(line.isprintable() for line in lines)
    assert all(problem.line >= 1 and problem.column >= 1 and problem.message for problem in found)


@settings(max_examples=400, deadline=None)
@given(mutants())
@example("version: 1\nactive: &a *a\nmodels: *a\n")
@example("? {a: b}\n: c\n")
@example("%YAML " + "9" * 5000 + ".0\n---\na: b\n")
@example('"\\uD800": 1\n')
@example("models: {a: &x {<<: *x}}\n")
@example("<<: 3\n")
@example("!<tag:%FF> a: b")
def test_any_mutation_of_a_valid_file(text: str) -> None:
    loads_or_says_where(text)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    loads_or_says_where(content)


def test_the_file_that_is_mutated_is_valid() -> None:
    load_text(VALID, path=Path("lmx.yaml"), env={"LMX_NAME": "x"})
