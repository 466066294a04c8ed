"""The text itself: what is no YAML, what YAML would do behind the user's back, and what is too much."""

from __future__ import annotations

import pytest

from reconciler.loader.tree import MAX_BYTES
from tests.reconciler.spec.reading import MINIMAL, load, problem, problems


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"version: 1\nname: caf\xe9\n", "2:10: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        (MINIMAL.encode("utf-16"), "1:1: this is UTF-16; save the file as UTF-8"),
        ("name: a\x00b", "1:8: the character U+0000 is not allowed in YAML; remove it"),
        ("name: \ud800", "1:7: the character U+D800 is not allowed in YAML; remove it"),
        ("[" * 100_000, "1:26: nested deeper than 24 levels"),
        ("{a: " * 50_000, "1:98: nested deeper than 24 levels"),
    ],
)
def test_text_that_no_editor_should_have_saved(text: str | bytes, message: str) -> None:
    """The rest of what is no YAML is in `mistakes.txt`."""
    assert problem(text) == f"lmx.yaml:{message}"


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "null\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_told_what_is_enough(text: str | bytes) -> None:
    assert "the file is empty; four lines are enough: 'version: 1', 'active: demo'" in problem(text)


def test_a_file_of_five_megabytes_is_not_parsed() -> None:
    assert problem(b"#" * 5_000_000) == (
        f"lmx.yaml:1:1: the file has 5000000 bytes; at most {MAX_BYTES} are read. Is it the right file?"
    )


def test_a_bomb_of_aliases_does_not_go_off() -> None:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert problem("\n".join(lines)) == "lmx.yaml:5:5: its anchors expand to more than 20000 values"


def test_a_bomb_of_merges_does_not_go_off() -> None:
    base = "base: &base {" + ", ".join(f"k{n}: 1" for n in range(1000)) + "}\n"
    uses = "".join(f"m{n}: {{<<: *base}}\n" for n in range(1000))
    assert "its anchors expand to more than 20000 values" in problems(base + uses)[-1]


def test_an_alias_of_what_it_is_part_of_is_refused() -> None:
    assert "no anchor '&a' is complete before this '*a'" in problems(MINIMAL + "name: &a [*a]\n")[-1]


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!secret", "!!binary", "!"])
def test_tags_are_refused(tag: str) -> None:
    assert any("is not allowed; remove it" in line for line in problems(MINIMAL + f"name: {tag} x\n"))


def test_words_that_older_yaml_takes_for_flags_stay_words() -> None:
    text = MINIMAL.replace("source: ./demo", "source: ./demo, aliases: [no, on, yes, y]")
    assert load(text).spec.models["demo"].aliases == ("no", "on", "yes", "y")
    assert load(MINIMAL + "server: {admin: off}\n").spec.server.admin == "off"


def test_a_revision_that_looks_like_a_number_needs_quotes() -> None:
    text = "version: 1\nactive: demo\nmodels:\n  demo: {{source: a/b, revision: {}}}\n"
    assert load(text.format("'1234567'")).spec.models["demo"].revision == "1234567"
    assert load(text.format("01234567")).spec.models["demo"].revision == "01234567"
    for number in ("1234567", "12345e6"):
        assert problem(text.format(number)).endswith("; put it in quotes")


def test_numbers_too_long_to_be_meant_are_text() -> None:
    assert "expected a whole number" in problem(MINIMAL + f"server: {{port: {'9' * 5000}}}\n")
    assert "expected a number" in problem(MINIMAL.replace("./demo", "./demo, sampling: {top_p: 1e999}"))


def test_anchors_and_merge_keys_work_and_the_nearer_value_counts() -> None:
    spec = load(
        """\
        version: 1
        active: one
        models:
          one: &one {source: ./one, idle_timeout: 5m, priority: 3}
          two:
            <<: *one
            source: ./two
            priority: 4
          three: {<<: [{priority: 9}, *one], source: ./three}
        """
    ).spec
    assert (spec.models["two"].source, spec.models["two"].idle_timeout, spec.models["two"].priority) == (
        "./two",
        300,
        4,
    )
    assert (spec.models["three"].idle_timeout, spec.models["three"].priority) == (300, 9)


def test_a_mistake_in_a_merged_map_is_reported_where_it_is_written() -> None:
    lines = problems(
        """\
        version: 1
        active: a
        models:
          a: &a
            source: ./a
            idle_timeout: 3
          b:
            <<: *a
            source: ./b
        """
    )
    assert [line.split(" a bare")[0] for line in lines] == [
        "lmx.yaml:6:19: models.a.idle_timeout:",
        "lmx.yaml:6:19: models.b.idle_timeout:",
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert load(b"\xef\xbb\xbf" + MINIMAL.encode()).spec.version == 1


def test_windows_line_ends_are_fine() -> None:
    assert load(MINIMAL.replace("\n", "\r\n").encode()).digest == load(MINIMAL).digest
