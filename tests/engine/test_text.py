"""The text a client gets is the text mlx-lm's own loop gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx_lm
import pytest

from tests.engine.client import Engine

PROMPTS = ["The quick brown", "A model appliance loads", "dog", "and the dog does not mind at all, does it?"]


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    model, tokenizer = mlx_lm.load(str(folder))

    def run(prompt: str | list[int], tokens: int) -> str:
        text: str = mlx_lm.generate(model, tokenizer, prompt, max_tokens=tokens)
        return text

    return run


def test_a_request_alone_gives_the_reference_text(engine: Engine, reference: Any) -> None:
    for prompt in PROMPTS:
        reply = engine.ask(prompt, max_tokens=40)
        assert reply.text == reference(prompt, 40)
        assert reply.finish in ("stop", "length")


def test_requests_in_a_batch_give_the_reference_text(engine: Engine, reference: Any) -> None:
    replies = [engine.submit(prompt, max_tokens=20 + 10 * n) for n, prompt in enumerate(PROMPTS)]
    engine.finish(*replies)
    for n, (prompt, reply) in enumerate(zip(PROMPTS, replies, strict=True)):
        assert reply.text == reference(prompt, 20 + 10 * n)
