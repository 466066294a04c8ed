"""For any text, any borders of its pieces and any format: what is streamed is what the whole gives.

And nothing is lost: what is no part of a call or marker comes as text, in its order.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.engine.answer.formats import FORMATS, MISTRAL_LIST, CallFormat
from tests.engine.answers import END, START, calls, plan, split, texts, tool, written

FORMS = [*FORMATS.values(), MISTRAL_LIST]
CALLS: list[list[tuple[str, dict[str, Any]]]] = [
    [("get_weather", {"city": "Paris", "days": 3})],
    [("ping", {}), ("get_weather", {"city": "Rome", "exact": False})],
    [("get_secrets", {"city": "x"})],
    [("ping", {"code": 'a "b" {c} é 東'})],
]
PIECES = [
    *(
        START,
        END,
        " ",
        "\n",
        "\n\n",
        "{",
        "}",
        '"',
        "\\",
        "<",
        ">",
        ",",
        ";",
        "[",
        "]",
        "word",
        "é",
        "🙂",
        "<think",
    ),
    *('{"city": 1}', '"name": "ping"', '"arguments": {', "</tool_call>", "oops", "0", "true"),
]


def near(form: CallFormat) -> st.SearchStrategy[str]:
    """Texts that are close to what the format writes: whole calls, halves of them, and what disturbs them."""
    whole = [written(form, made) for made in CALLS]
    markers = [part for part in (form.start, form.end, form.before, form.between, form.after) if part]
    halves = st.sampled_from(whole).flatmap(lambda text: st.integers(0, len(text)).map(lambda at: text[:at]))
    tails = st.sampled_from(whole).flatmap(lambda text: st.integers(0, len(text)).map(lambda at: text[at:]))
    piece = st.one_of(st.sampled_from([*whole, *markers, *PIECES]), halves, tails, st.text(max_size=4))
    return st.lists(piece, max_size=8).map("".join)


def chunks(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(places)]


@st.composite
def answers(draw: st.DrawFn) -> Case:
    form = draw(st.sampled_from(FORMS))
    text = draw(near(form))
    options = {name: draw(st.booleans()) for name in ("thinks", "inside", "single")}
    if not options["thinks"]:
        options["inside"] = False
    stops = draw(
        st.lists(st.sampled_from(["word", "<t", "\n\n", "}", "Paris", START]), max_size=2, unique=True)
    )
    return form, text, options, tuple(stops), draw(st.booleans())


Case = tuple[CallFormat, str, dict[str, Any], tuple[str, ...], bool]
CUTS = st.lists(st.integers(0, 2000), max_size=12)


def streams_as_a_whole(case: Case, cuts: list[int]) -> None:
    form, text, options, stops, cut = case
    made = plan(form, **options)
    whole = split(made, [text], stops=stops, cut=cut)
    assert split(made, chunks(text, cuts), stops=stops, cut=cut) == whole
    assert split(made, text, stops=stops, cut=cut) == whole


def loses_nothing(case: Case) -> None:
    """And makes nothing up."""
    form, text, options, _, cut = case
    options = {**options, "thinks": False, "inside": False, "single": False}
    parts, _ = split(plan(form, **options), [text], cut=cut)
    said = solid(texts(parts, "text"))
    assert follows(said, solid(text))
    if not any(part[0] == "call" for part in parts):
        assert said == solid(text)
    for part in parts:
        if part[0] == "call" and form.json:
            as_written = re.sub(r"\\u00[01].|\\[nrt]", "", part[3])  # control characters are escaped
            assert follows(solid(as_written), solid(text) + "{}")


@settings(deadline=None)
@given(answers(), CUTS)
def test_streamed_deltas_put_together_are_the_whole_answer(case: Case, cuts: list[int]) -> None:
    streams_as_a_whole(case, cuts)
    loses_nothing(case)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
@settings(deadline=None, max_examples=20_000, suppress_health_check=list(HealthCheck))
@given(answers(), CUTS)
def test_the_same_for_twenty_thousand_answers(case: Case, cuts: list[int]) -> None:
    streams_as_a_whole(case, cuts)
    loses_nothing(case)


def solid(text: str) -> str:
    return re.sub(r"\s", "", text)


def follows(small: str, big: str) -> bool:
    """Whether the characters of one stand in the other, in this order."""
    rest = iter(big)
    return all(c in rest for c in small)


WORDS = st.text("abcdefghij", min_size=1, max_size=8).map(lambda word: f"w{word} z")
VALUES = {
    "string": WORDS,
    "integer": st.integers(-(10**6), 10**6),
    "boolean": st.booleans(),
    "number": st.integers(-100, 100).map(lambda n: n + 0.5),
}


@st.composite
def made_calls(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[tuple[str, dict[str, Any]]]]:
    """Tools, and calls of them."""
    names = draw(
        st.lists(st.sampled_from(["look", "get_x", "send", "ab"]), min_size=1, max_size=3, unique=True)
    )
    keys = st.lists(st.sampled_from(["city", "n", "flag", "x_y"]), max_size=3, unique=True)
    kinds = {name: {key: draw(st.sampled_from(sorted(VALUES))) for key in draw(keys)} for name in names}
    tools = [tool(name, **kinds[name]) for name in names]
    order = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
    return tools, [(name, {key: draw(VALUES[kind]) for key, kind in kinds[name].items()}) for name in order]


@pytest.mark.parametrize(
    "form", FORMS, ids=lambda form: form.name + ("_list" if form is MISTRAL_LIST else "")
)
@settings(deadline=None, max_examples=25)
@given(made=made_calls(), cuts=st.lists(st.integers(0, 500), max_size=5))
def test_what_the_table_writes_is_read(
    form: CallFormat, made: tuple[list[dict[str, Any]], list[tuple[str, dict[str, Any]]]], cuts: list[int]
) -> None:
    """A grammar that is made of the table forces what can be read."""
    tools, called = made
    text = written(form, called)
    parts, _ = split(plan(form, tools=tools), chunks(text, cuts))
    assert calls(parts) == called
    assert all(part[0] == "call" for part in parts)


@settings(deadline=None)
@given(st.text(max_size=40), st.lists(st.integers(0, 40), max_size=6))
def test_any_text_at_all(text: str, cuts: list[int]) -> None:
    for name in FORMATS:
        made = plan(name)
        assert split(made, chunks(text, cuts)) == split(made, [text])
