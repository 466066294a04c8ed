"""An engine of an encoder, over the wire."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from appliance import wire
from tests.engine.client import Engine
from tests.engine.encoders import folders

GOLDENS = json.loads((Path(__file__).parents[2] / "goldens" / "encoders.json").read_text())
numbers = itertools.count(1)


def ask(engine: Engine, inputs: list[Any], **more: Any) -> Any:
    number = next(numbers)
    engine.send(wire.Embed(number, inputs, **more))
    answer = engine.expect(wire.Embedded | wire.Unanswered)  # type: ignore[type-var]
    assert answer.number == number
    return answer


def array(answer: wire.Embedded) -> Any:
    return np.frombuffer(answer.vectors, "<f4").reshape(-1, answer.dimensions)


def test_real_weights_give_the_reference_vectors(minilm: Engine) -> None:
    wanted = np.array(GOLDENS["minilm"]["vectors"])
    found = array(ask(minilm, GOLDENS["minilm"]["texts"]))
    assert np.abs(found - wanted).max() < 1e-4
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5


def test_hundreds_of_texts_come_back_in_their_order(minilm: Engine) -> None:
    texts = ["word " * (1 + 7 * n % 23) + str(n) for n in range(120)]
    together = ask(minilm, texts)
    some = [0, 1, 75, 118, 119]
    alone = np.concatenate([array(ask(minilm, [texts[n]])) for n in some])
    assert np.abs(array(together)[some] - alone).max() < 1e-5
    assert together.tokens > sum(len(text.split()) + 1 for text in texts)


def test_token_ids_are_taken_as_they_are(minilm: Engine) -> None:
    [cls, sep, cat] = [101, 102, 4937]
    both = array(ask(minilm, ["cat", [cls, cat, sep], [cat]]))
    assert np.abs(both[0] - both[1]).max() < 1e-6
    assert np.abs(both[0] - both[2]).max() > 1e-3


def test_fewer_dimensions_are_the_first_ones_normalised_again(minilm: Engine) -> None:
    whole, cut = array(ask(minilm, ["a cat"])), array(ask(minilm, ["a cat"], dimensions=64))
    assert cut.shape == (1, 64)
    assert np.abs(cut - whole[:, :64] / np.linalg.norm(whole[:, :64])).max() < 1e-6


@pytest.mark.parametrize(
    ("inputs", "more", "code", "param", "words"),
    [
        (
            ["short", "word " * 300],
            {},
            "context_length_exceeded",
            "input[1]",
            "has 302 tokens, and this model takes 256",
        ),
        (["a", [1, 2] * 200], {}, "context_length_exceeded", "input[1]", "has 400 tokens"),
        ([[1, 40_000]], {}, "invalid_request", "input[0]", "40000, which is no token of this model"),
        ([[-1]], {}, "invalid_request", "input[0]", "-1, which is no token"),
        ([[]], {}, "invalid_request", "input[0]", "empty"),
        (["a"], {"dimensions": 385}, "invalid_request", "dimensions", "from 1 to 384"),
    ],
)
def test_what_cannot_be_embedded_is_refused_whole(
    inputs: list[Any], more: dict[str, Any], code: str, param: str, words: str, minilm: Engine
) -> None:
    answer = ask(minilm, inputs, **more)
    assert isinstance(answer, wire.Unanswered)
    assert (answer.code, answer.param) == (code, param)
    assert words in answer.message
    if code == "context_length_exceeded":
        assert answer.details is not None
        assert answer.details["limit"] == 256
        assert answer.details["index"] == 1


def test_too_long_a_text_is_cut_where_that_is_asked_for(minilm: Engine) -> None:
    cut = ask(minilm, ["word " * 300, [101] + [2773] * 400], truncate=True)
    assert cut.tokens == 2 * 256
    same = array(ask(minilm, ["word " * 254]))
    assert np.abs(array(cut)[0] - same[0]).max() < 1e-6


def test_a_lower_ceiling_counts_from_the_next_question(minilm: Engine) -> None:
    minilm.send(wire.Configure(context=16))
    assert ask(minilm, ["word " * 20]).details == {"index": 0, "tokens": 22, "limit": 16}
    minilm.send(wire.Configure(context=512))
    assert ask(minilm, ["word " * 20]).tokens == 22


def test_a_short_question_does_not_wait_for_a_long_one(minilm: Engine) -> None:
    long, short = next(numbers), next(numbers)
    minilm.send(wire.Embed(long, ["word " * 250] * 24, caller="a"))
    minilm.send(wire.Embed(short, ["cat"], caller="b"))
    assert minilm.expect(wire.Embedded).number == short
    assert minilm.expect(wire.Embedded).number == long


def test_a_question_that_was_taken_back_is_not_answered(minilm: Engine) -> None:
    given_up, after = next(numbers), next(numbers)
    minilm.send(wire.Embed(given_up, ["word " * 250] * 40))
    minilm.send(wire.Cancel(given_up))
    minilm.send(wire.Embed(after, ["cat"]))
    assert minilm.expect(wire.Embedded).number == after
    seen = len(minilm.beats)
    minilm.until(lambda: len(minilm.beats) > seen + 1 and minilm.beats[-1].stage == "idle")
    assert not any(isinstance(frame, wire.Embedded) and frame.number == given_up for frame in minilm.frames)


def test_beats_tell_what_it_did(minilm: Engine) -> None:
    seen = len(minilm.beats)
    minilm.until(lambda: len(minilm.beats) > seen and minilm.beats[-1].stage == "idle")
    before = minilm.beats[-1]
    tokens = ask(minilm, ["word " * 250] * 10).tokens
    seen = len(minilm.beats)
    minilm.until(lambda: len(minilm.beats) > seen + 1 and minilm.beats[-1].stage == "idle")
    after = minilm.beats[-1]
    assert after.prompt_tokens - before.prompt_tokens == tokens
    assert after.progress > before.progress + 1  # more than one slice
    assert (after.rows, after.waiting) == (0, 0)
    assert after.busy_s > before.busy_s


def test_what_only_chat_models_do_is_refused(minilm: Engine) -> None:
    reply = minilm.ask("hello")
    assert reply.refused is not None
    assert reply.refused.code == "invalid_request"
    assert "computes vectors" in reply.refused.message
    minilm.send(wire.ListSessions(next(numbers)))
    assert minilm.expect(wire.Sessions).sessions == []


def test_documents_are_scored_against_a_query(ranker: Engine) -> None:
    ranker.send(wire.Rank(1, folders.QUERY, list(folders.TEXTS)))
    found = ranker.expect(wire.Ranked)
    assert np.abs(np.array(found.scores) - np.array(GOLDENS["rerank"]["xlm-roberta"])).max() < 1e-4
    assert found.tokens > 5 * len(folders.TEXTS)


def test_of_a_pair_that_is_too_long_the_document_is_cut(ranker: Engine) -> None:
    long = "the cat " * 40
    ranker.send(wire.Rank(2, folders.QUERY, ["a dog", long]))
    refused = ranker.expect(wire.Unanswered)
    assert (refused.code, refused.param) == ("context_length_exceeded", "documents[1]")
    ranker.send(wire.Rank(3, folders.QUERY, [long], truncate=True))
    assert ranker.expect(wire.Ranked).tokens == 36
    ranker.send(wire.Rank(4, long, ["a dog"], truncate=True))
    assert ranker.expect(wire.Unanswered).param == "query"
    ranker.send(wire.Rank(5, "a", ["b"], instruction="find b"))
    assert ranker.expect(wire.Unanswered).param == "instruction"


def test_numbers_that_are_none_are_an_error_and_no_vector(
    start: Callable[[], Engine], tmp_path: Path
) -> None:
    """One token's row is broken: only questions that hold it fail."""
    folder = folders.bert_embedding(tmp_path, "mean_tokens")
    weights = load_file(folder / "model.safetensors")
    bad = [*folders.SPECIAL, *folders.WORDS].index("dog")
    weights["embeddings.word_embeddings.weight"][bad] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    engine = start()
    engine.load(folder, role="embedding")
    answer = ask(engine, ["the cat", "the dog"])
    assert isinstance(answer, wire.Unanswered)
    assert (answer.code, "NaN" in answer.message) == ("engine_failed", True)
    assert isinstance(ask(engine, ["the cat"]), wire.Embedded)


def test_a_model_of_nothing_but_nan_is_not_served(start: Callable[[], Engine], tmp_path: Path) -> None:
    folder = folders.bert_embedding(tmp_path, "mean_tokens")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][:] = np.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    engine = start()
    failed = engine.fail_to_load(folder, role="embedding")
    assert (failed.code, failed.permanent) == ("corrupt_weights", True)
    assert engine.drain() == wire.EXIT_LOAD_FAILED


def test_a_cold_encoder_says_what_it_is_and_leaves_when_asked(
    start: Callable[[], Engine], tmp_path: Path
) -> None:
    engine = start()
    loaded = engine.load(folders.qwen3_embedding(tmp_path), role="embedding")
    assert (loaded.role, loaded.dimensions, loaded.model_type) == ("embedding", 32, "qwen3")
    assert loaded.context_max == 36
    assert ask(engine, ["the cat"]).dimensions == 32
    engine.send(wire.Shutdown())
    assert engine.drain() == wire.EXIT_OK


def test_an_encoder_that_is_declared_as_a_chat_model_says_what_it_needs(
    start: Callable[[], Engine], tmp_path: Path
) -> None:
    failed = start().fail_to_load(folders.bert_embedding(tmp_path, "mean_tokens"))
    assert (failed.code, failed.permanent) == ("unsupported_model", True)
    assert "set `role: embedding` or `role: rerank`" in failed.message
