"""Sliding windows, linear attention and caches without a batched form: each served as it can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx_lm
import pytest

from appliance import wire
from tests.engine import models
from tests.engine.client import Engine
from tests.engine.models import generated

PROMPTS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind",
    "dog",
    "A model appliance",
]


@pytest.fixture
def reference() -> Callable[[Path, str, int], str]:
    def run(folder: Path, prompt: str, tokens: int) -> str:
        model, tokenizer = mlx_lm.load(str(folder))
        tokenizer.eos_token_ids = set()
        text = generated(model, tokenizer, prompt, tokens)
        return text

    return run


@pytest.mark.parametrize("config", [models.GEMMA3, models.QWEN3_NEXT], ids=lambda c: str(c["model_type"]))
def test_it_batches_and_gives_the_reference_text(
    config: dict[str, Any],
    tmp_path: Path,
    start: Callable[[], Engine],
    reference: Callable[[Path, str, int], str],
) -> None:
    folder = models.write(tmp_path / "model", config)
    engine = start()
    loaded = engine.load(folder)
    assert loaded.batchable, loaded.batch_why
    engine.send(wire.Configure(context=512, concurrency=8))
    expected = [reference(folder, prompt, 40) for prompt in PROMPTS]
    assert engine.ask(PROMPTS[0], max_tokens=40, ignore_eos=True).text == expected[0]
    first = engine.submit(PROMPTS[0], max_tokens=40, ignore_eos=True)
    engine.until(lambda: len(first.rows) > 4)
    rest = [engine.submit(prompt, max_tokens=40, ignore_eos=True) for prompt in PROMPTS[1:]]
    engine.finish(first, *rest)
    assert [reply.text for reply in (first, *rest)] == expected


def test_a_cache_without_a_batched_form_is_served_one_request_at_a_time(
    tmp_path: Path, start: Callable[[], Engine], reference: Callable[[Path, str, int], str]
) -> None:
    folder = models.write(tmp_path / "model", models.LLAMA4)
    engine = start()
    loaded = engine.load(folder)
    assert not loaded.batchable
    assert loaded.batch_why is not None
    assert "ChunkedKVCache" in loaded.batch_why
    engine.send(wire.Configure(context=512, concurrency=8))
    replies = [engine.submit(prompt, max_tokens=20, ignore_eos=True) for prompt in PROMPTS]
    engine.finish(*replies)
    assert [reply.text for reply in replies] == [reference(folder, prompt, 20) for prompt in PROMPTS]
    steps = [frame for frame in engine.frames if isinstance(frame, wire.Step)]
    assert all(len(step.rows) == 1 for step in steps)
