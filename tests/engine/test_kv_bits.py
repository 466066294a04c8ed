"""A model with a quantised cache, in a real engine: it batches, and every row says what it says alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx_lm
import pytest
from mlx_lm.models.cache import QuantizedKVCache

from appliance import wire
from reconciler.kv_shape import kv_bytes_per_token
from tests.engine import models
from tests.engine.client import ROOT, Engine

DEMO = ROOT / "examples" / "models" / "lmx-demo"
QUESTIONS = [
    "What is the capital of France?",
    "What are the days of the week?",
    "Hello!",
    "Count to ten.",
    "How do I swap models?",
    "Who are you?",
]
LONG = "The engine drains before it goes, and no request is lost. " * 40  # some 600 tokens


def chat(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module", params=[8, 4], ids=["8 bits", "4 bits"])
def bits(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def engine(bits: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = Engine(tmp_path_factory.mktemp("logs") / "engine.log")
    try:
        loaded = running.load(DEMO, kv_bits=bits)
        assert loaded.batchable, loaded.batch_why
        running.send(wire.Configure(context=4096, concurrency=16, prefill_chunk=64))
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def alone(engine: Engine) -> list[str]:
    """What each question gets when nothing runs beside it."""
    return [engine.ask(chat(question), max_tokens=60, ignore_eos=True).text for question in QUESTIONS]


def test_a_row_alone_says_what_mlx_lm_says_with_its_own_quantised_cache(bits: int, alone: list[str]) -> None:
    model, tokenizer = mlx_lm.load(str(DEMO))[:2]
    tokenizer.eos_token_ids = set()
    for question, ours in zip(QUESTIONS, alone, strict=True):
        cache = [QuantizedKVCache(group_size=32, bits=bits) for _ in model.layers]
        theirs = mlx_lm.generate(model, tokenizer, chat(question), max_tokens=60, prompt_cache=cache)
        assert ours == theirs


def test_what_a_row_reserves_is_what_was_forecast(bits: int, engine: Engine) -> None:
    row = engine.submit(chat(QUESTIONS[0]), max_tokens=3000, ignore_eos=True)
    engine.until(lambda: bool(row.rows))
    engine.beats.clear()
    engine.until(lambda: any(beat.rows == 1 for beat in engine.beats))
    engine.send(wire.Cancel(row.rid))
    engine.finish(row)
    assert row.accepted is not None
    shape = kv_bytes_per_token(json.loads((DEMO / "config.json").read_text()), kv_bits=bits)
    assert engine.beats[0].reserved_bytes == shape.row(row.accepted.prompt_tokens + 3000)


def test_rows_of_different_lengths_that_join_and_leave_say_what_they_say_alone(
    engine: Engine, alone: list[str]
) -> None:
    lengths = [60, 7, 60, 20, 33, 60]
    first = engine.submit(chat(QUESTIONS[0]), max_tokens=lengths[0], ignore_eos=True)
    engine.until(lambda: len(first.rows) > 3)
    rest = [
        engine.submit(chat(question), max_tokens=length, ignore_eos=True)
        for question, length in zip(QUESTIONS[1:], lengths[1:], strict=True)
    ]
    engine.finish(first, *rest)
    assert any(len(frame.rows) > 2 for frame in engine.frames if isinstance(frame, wire.Step)), (
        "they ran together"
    )
    for reply, whole, length in zip((first, *rest), alone, lengths, strict=True):
        assert reply.rows[-1].tokens == length
        assert reply.text == whole if length == 60 else whole.startswith(reply.text)


def test_a_long_prompt_by_chunks_beside_short_rows_changes_nothing(engine: Engine) -> None:
    prompt = chat(f"{LONG} {QUESTIONS[4]}")
    expected = engine.ask(prompt, max_tokens=40, ignore_eos=True).text
    short = engine.submit(chat(QUESTIONS[1]), max_tokens=300, ignore_eos=True)
    engine.until(lambda: len(short.rows) > 3)
    long = engine.submit(prompt, max_tokens=40, ignore_eos=True)
    engine.finish(long)
    assert long.accepted is not None
    assert long.accepted.prompt_tokens > 8 * 64, "it took many chunks"
    assert long.text == expected
    engine.finish(short)
    assert short.finish == "length"


def test_a_cancelled_row_leaves_the_others_what_they_are(engine: Engine, alone: list[str]) -> None:
    rows = [engine.submit(chat(question), max_tokens=60, ignore_eos=True) for question in QUESTIONS[:3]]
    endless = engine.submit(chat(LONG), max_tokens=3000, ignore_eos=True)
    engine.until(lambda: bool(endless.rows))
    again = engine.submit(chat(QUESTIONS[3]), max_tokens=60, ignore_eos=True)
    engine.until(lambda: bool(again.rows))
    engine.send(wire.Cancel(endless.rid))
    engine.finish(endless, again, *rows)
    assert endless.finish == "cancelled"
    assert [reply.text for reply in (*rows, again)] == alone[:4]


def test_a_next_turn_from_the_prompt_cache_says_what_it_says_without(
    bits: int, start: Callable[[], Engine]
) -> None:
    turn = chat(f"{LONG} {QUESTIONS[0]}")

    def conversation(cache_memory: int) -> tuple[list[str], wire.Accepted]:
        engine = start()
        engine.load(DEMO, kv_bits=bits)
        engine.send(wire.Configure(context=4096, concurrency=8, prefill_chunk=64, cache_memory=cache_memory))
        first = engine.ask(turn, max_tokens=30, ignore_eos=True)
        follow = f"{turn}{first.text}\n{chat(QUESTIONS[1])}"
        beside = engine.submit(chat(QUESTIONS[2]), max_tokens=200, ignore_eos=True)
        engine.until(lambda: bool(beside.rows))
        again = engine.submit(follow, max_tokens=40, ignore_eos=True)
        other = engine.submit(turn + QUESTIONS[3], max_tokens=40, ignore_eos=True)
        engine.finish(beside, again, other)
        assert again.accepted is not None
        return [first.text, again.text, other.text], again.accepted

    without, missed = conversation(0)
    within, hit = conversation(2**26)
    assert (missed.cached_from, missed.cached_tokens) == (None, 0)
    assert hit.cached_from == "memory"
    assert hit.cached_tokens >= 512
    assert within == without


def test_blocks_of_a_quantised_model_are_smaller_in_the_prompt_cache(
    bits: int, start: Callable[[], Engine]
) -> None:
    def kept(kv_bits: int | None) -> int:
        engine = start()
        engine.load(DEMO, kv_bits=kv_bits)
        engine.send(wire.Configure(context=4096, prefill_chunk=64, cache_memory=2**26))
        engine.ask([5] * 1025, max_tokens=1, ignore_eos=True)
        engine.beats.clear()
        engine.until(lambda: any(beat.cache.memory_bytes and not beat.rows for beat in engine.beats))
        return engine.beats[-1].cache.memory_bytes

    config = json.loads((DEMO / "config.json").read_text())
    expected = kv_bytes_per_token(config, kv_bits=bits).per_token / kv_bytes_per_token(config).per_token
    assert kept(bits) / kept(None) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "config", [models.GEMMA3, models.QWEN3_NEXT], ids=["sliding windows", "linear attention"]
)
def test_layers_that_cannot_be_quantised_run_beside_those_that_are(
    config: dict[str, Any], tmp_path: Path, start: Callable[[], Engine]
) -> None:
    folder = models.write(tmp_path / "model", config, head_dim=64)
    engine = start()
    loaded = engine.load(folder, kv_bits=8)
    assert loaded.batchable, loaded.batch_why
    engine.send(wire.Configure(context=512, concurrency=8))
    prompts = ["The quick brown fox jumps over the lazy dog", "dog", "A model appliance"]
    alone = [engine.ask(prompt, max_tokens=40, ignore_eos=True).text for prompt in prompts]
    replies = [engine.submit(prompt, max_tokens=40, ignore_eos=True) for prompt in prompts]
    engine.finish(*replies)
    assert [reply.text for reply in replies] == alone


GPT_OSS: dict[str, Any] = {
    **models.QWEN3,
    "model_type": "gpt_oss",
    "head_dim": 64,
    "sliding_window": 16,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "layer_types": ["sliding_attention", "full_attention"],
}
GEMMA2: dict[str, Any] = {
    **models.QWEN3,
    "model_type": "gemma2",
    "head_dim": 64,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "query_pre_attn_scalar": 64,
}
MAMBA2: dict[str, Any] = {
    "model_type": "mamba2",
    "num_heads": 4,
    "head_dim": 32,
    "hidden_size": 64,
    "intermediate_size": 128,
    "state_size": 16,
    "num_hidden_layers": 2,
    "layer_norm_epsilon": 1e-5,
    "conv_kernel": 4,
    "n_groups": 1,
    "use_bias": False,
    "use_conv_bias": True,
    "tie_word_embeddings": True,
    "time_step_limit": [0.0, 1e9],
    "time_step_rank": 4,
    "max_position_embeddings": 2048,
}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (GPT_OSS, "attention sinks"),
        (GEMMA2, "its attention cannot read a quantised cache"),
        (MAMBA2, "would save nothing"),
        (models.QWEN3, "heads of 16 elements"),
    ],
    ids=["sinks", "soft caps", "no keys", "small heads"],
)
def test_a_model_that_cannot_have_it_says_so(
    config: dict[str, Any], why: str, tmp_path: Path, start: Callable[[], Engine]
) -> None:
    folder = models.write(tmp_path / "model", config)
    failed = start().fail_to_load(folder, kv_bits=8)
    assert (failed.code, failed.permanent) == ("unsupported_model", True)
    assert "does not run with kv_bits: 8; remove `kv_bits`" in failed.message
    assert why in failed.message
