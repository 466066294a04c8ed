"""Conversations in segments: the tokens of the whole text, whatever the tokenizer and the text."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from appliance.engine import segments
from appliance.engine.segments import Segments

MARKS = ("<|im_start|>", "<|im_end|>", "<s>", "</s>")
PIECES = [*MARKS, "<tool>", "<|im_", "start|>", "hello", " hello", "  ", "\n", "user\n", "It's", "12345"]
PIECES += ["<", "|>", "s>"]
PIECES += ["\u00fcber", "e\u0301", "\u4f60\u597d", "\u2581", "\U0001f642", "\u200d"]
CORPUS = [f"{a}{b} {c}" for a in PIECES for b in PIECES for c in ("and", "12")]


def byte_level(prefix: bool = False) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    return made


def metaspace(scheme: str) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def prepending() -> Tokenizer:
    """As Llama 2's: what is prepended is prepended to every part between special tokens."""
    made = metaspace("never")
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    return made


TOKENIZERS = {
    "byte level": byte_level,
    "with a space before": lambda: byte_level(prefix=True),
    "metaspace first": lambda: metaspace("first"),
    "metaspace always": lambda: metaspace("always"),
    "prepending": prepending,
}


def wrapped(inner: Tokenizer, *, bos: bool = False, **how: Any) -> Any:
    inner.add_special_tokens([AddedToken(mark, special=True, normalized=False, **how) for mark in MARKS])
    inner.add_tokens([AddedToken("<tool>", normalized=True)])
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def whole(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def texts(count: int, seed: str) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randrange(1, 40))) for _ in range(count)]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_segments_are_the_whole_text(name: str, bos: bool) -> None:
    tokenizer = wrapped(TOKENIZERS[name](), bos=bos)
    found = Segments(tokenizer)
    assert found.works
    for text in texts(400, name):
        for _ in range(2):  # the second time it is known
            assert found.encode(text, "") == whole(tokenizer, text), text


def test_the_demo_models_conversations_are_read_in_segments() -> None:
    tokenizer = load_tokenizer(Path(__file__).parents[2] / "examples" / "models" / "lmx-demo")
    found = Segments(tokenizer, tokenizer.chat_template)
    assert found.works
    said = [{"role": "user", "content": "What is 2 + 3?"}, {"role": "assistant", "content": "It is 5."}]
    for turns in (1, 2, 5):
        text = tokenizer.apply_chat_template(said * turns, tokenize=False, add_generation_prompt=True)
        assert found.encode(text, "") == whole(tokenizer, text)


@pytest.mark.parametrize("how", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}])
def test_marks_that_take_more_than_themselves_are_not_cut_at(how: dict[str, bool]) -> None:
    tokenizer = wrapped(byte_level(), **how)
    found = Segments(tokenizer)
    assert not found.works
    for text in texts(50, "whole"):
        assert found.encode(text, "") == whole(tokenizer, text)


def test_a_mark_that_is_part_of_another_token_is_not_cut_at() -> None:
    inner = byte_level()
    inner.add_tokens([AddedToken("x<|im_", normalized=False), AddedToken("<s><tool>", normalized=False)])
    tokenizer = wrapped(inner)
    found = Segments(tokenizer)
    assert found.works
    text = "ax<|im_start|>b<s><tool>c<|im_end|>d<s>e</s>f"
    assert found.encode(text, "") == whole(tokenizer, text)
    assert found._split(text) == ["ax<|im_start|>b<s><tool>c<|im_end|>d<s>e", "</s>f"]


def test_a_tokenizer_whose_parts_differ_reads_the_whole(caplog: pytest.LogCaptureFixture) -> None:
    """It says of itself what would make it safe, and behaves otherwise."""
    tokenizer = wrapped(byte_level())

    class Odd:
        is_fast, split_special_tokens = True, False
        added_tokens_decoder = tokenizer.added_tokens_decoder
        bos_token = eos_token = None
        backend_tokenizer = tokenizer.backend_tokenizer

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [*whole(tokenizer, text), len(text)]

    caplog.set_level("INFO")
    found = Segments(Odd())
    assert not found.works
    assert "reads the whole" in caplog.text
    assert found.encode("hello", "") == [*whole(tokenizer, "hello"), 5]


def test_python_tokenizers_read_the_whole() -> None:
    slow = SimpleNamespace(is_fast=False, encode=lambda text, add_special_tokens: [len(text)])
    found = Segments(slow)
    assert not found.works
    assert found.encode("hello<s>", "") == [8]


class Counting:
    """Which texts a tokenizer's backend was given."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.read = inner, []

    def encode(self, text: str, add_special_tokens: bool) -> Any:
        self.read.append(text)
        return self.inner.encode(text, add_special_tokens=add_special_tokens)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[Segments, list[str]]:
    tokenizer = wrapped(byte_level())
    found = Segments(tokenizer)
    counting = Counting(tokenizer.backend_tokenizer)
    monkeypatch.setattr(type(tokenizer), "backend_tokenizer", counting, raising=True)
    return found, counting.read


def test_only_what_is_new_is_read(counted: tuple[Segments, list[str]]) -> None:
    found, read = counted
    found.encode("<s>one</s><s>two", "")
    assert read == ["<s>one", "</s>", "<s>two"]
    found.encode("<s>one</s><s>two</s><s>three", "")
    assert read[3:] == ["<s>three"]


def test_what_one_key_has_said_is_new_to_another(counted: tuple[Segments, list[str]]) -> None:
    found, read = counted
    found.encode("<s>one</s>", "mine")
    found.encode("<s>one</s>", "yours")
    assert read == ["<s>one", "</s>"] * 2


def test_nothing_is_known_after_clear_nor_where_nothing_may_be_kept(
    counted: tuple[Segments, list[str]],
) -> None:
    found, read = counted
    found.encode("<s>one", "")
    found.clear()
    found.encode("<s>one", "")
    found.encode("<s>one", "", keep=False)
    found.encode("<s>one", "", keep=False)
    assert read == ["<s>one"] * 4
    assert found._bytes == 0


def test_a_text_of_nothing_but_marks_is_held_to_what_it_really_takes(
    counted: tuple[Segments, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = counted
    monkeypatch.setattr(segments, "MOST", 30_000)
    found.encode("".join(f"<s>{number}" for number in range(1000)), "")
    assert 0 < len(found._known) <= 100


def test_what_was_used_longest_ago_gives_way(
    counted: tuple[Segments, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, read = counted
    monkeypatch.setattr(segments, "MOST", 3000)
    parts = [f"<s>{number} " + "hello" * 100 for number in range(4)]
    for part in (parts[0], parts[1], parts[0], parts[2], parts[3]):
        found.encode(part, "")
        assert 0 < found._bytes <= 3000
    del read[:]
    found.encode(parts[3], "")
    found.encode(parts[1], "")
    assert read == [parts[1]]
