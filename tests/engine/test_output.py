"""Text is held back exactly as long as it may still change or turn out to be a stop string."""

from __future__ import annotations

from pathlib import Path

import mlx_lm
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import NaiveStreamingDetokenizer, TokenizerWrapper

from appliance.engine.output import Incremental, Output, Stops, Streaming, detokenizer


def cut(text: str, stops: list[str]) -> str:
    """What is left of a text that is read character by character up to the first whole stop string."""
    for end in range(len(text) + 1):
        hits = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if hits:
            return text[: end - max(map(len, hits))]
    return text


@given(
    st.lists(st.text("ab", max_size=4), max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_the_result_does_not_depend_on_where_pieces_are_cut(pieces: list[str], stops: list[str]) -> None:
    matcher = Stops(tuple(stops))
    seen = ""
    for piece in pieces:
        result = matcher.push(piece)
        seen += result.text
        if result.stop is not None:
            break
    else:
        seen += matcher.flush()
    assert seen == cut("".join(pieces), stops)


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert Stops(()).push("abc").text == "abc"


TEXTS = [
    "Größe, naïve and 東京 🙂🙂 done",
    "plain words\nnew line",
    "🙂",
    "  two spaces  ",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_both_detokenizers_stream_whole_characters(folder: Path, text: str) -> None:
    _, tokenizer = mlx_lm.load(str(folder))
    general = TokenizerWrapper(tokenizer._tokenizer, NaiveStreamingDetokenizer)
    assert isinstance(detokenizer(tokenizer), Streaming)
    assert isinstance(detokenizer(general), Incremental)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    for wrapper, expected in ((general, text), (tokenizer, text.removeprefix(" "))):
        stream = detokenizer(wrapper)
        pieces = [stream.add(token) for token in tokens]
        assert not any("\ufffd" in piece for piece in pieces)
        assert "".join(pieces) + stream.end() == expected


@pytest.mark.parametrize("general", [False, True])
def test_half_a_character_is_shown_as_such_only_at_the_end(folder: Path, general: bool) -> None:
    _, tokenizer = mlx_lm.load(str(folder))
    wrapper = TokenizerWrapper(tokenizer._tokenizer, NaiveStreamingDetokenizer) if general else tokenizer
    output = Output(wrapper, ())
    tokens = tokenizer.encode("ok 🦊", add_special_tokens=False)[:-1]
    shown = "".join(output.push(token).text for token in tokens)
    assert "ok" in shown
    assert "\ufffd" not in shown
    assert "\ufffd" in output.end().text


def test_a_long_text_keeps_no_history(folder: Path) -> None:
    _, tokenizer = mlx_lm.load(str(folder))
    stream = detokenizer(tokenizer)
    assert isinstance(stream, Streaming)
    for token in tokenizer.encode("words and more words " * 50, add_special_tokens=False):
        stream.add(token)
    assert len(stream._inner.text) <= 1
    assert stream._inner.tokens == []
