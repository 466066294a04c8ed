"""Log-probabilities are the model's own, whatever made of the choice, and only for those that ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core
import pytest

from appliance import wire
from appliance.engine import load, weights
from tests.engine.client import Engine, Reply

mx: Any = mlx.core
DEMO = Path(__file__).parents[2] / "examples" / "models" / "lmx-demo-mini"
PROMPT = [5, 6, 7, 8, 9]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = Engine(tmp_path_factory.mktemp("logs") / "engine.log")
    try:
        running.load(DEMO)
        running.send(wire.Configure(context=2048, concurrency=16))
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def model() -> load.Model:
    order = wire.Load("test", str(DEMO))
    return load.load(order, weights.check(order), lambda done, total: None)


def told(reply: Reply) -> list[wire.Logprob]:
    return [one for row in reply.rows if row.more is not None for one in row.more.logprobs]


def reference(model: load.Model, found: list[wire.Logprob], top: int) -> list[tuple[float, list[float]]]:
    """The same tokens, one after the other through the model, in one pass and without any cache."""
    vocabulary = {model.tokenizer.decode([n]).encode(): n for n in range(model.vocabulary)}
    tokens = [vocabulary[one.token] for one in found]
    logits = model.net(mx.array([PROMPT + tokens]))[0, len(PROMPT) - 1 : -1]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    best = -mx.sort(-logprobs, axis=-1)
    pairs = zip(tokens, logprobs, best, strict=True)
    return [(row[token].item(), first[:top].tolist()) for token, row, first in pairs]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"temperature": 1.3, "top_p": 0.8, "top_k": 5, "seed": 3},
        {"presence_penalty": 1.5, "logit_bias": {300: 5.0}},
        {"grammar": wire.Grammar("regex", "[a-z]{3,30}")},
    ],
    ids=["greedy", "sampled", "penalties and bias", "grammar"],
)
def test_they_are_the_models_own(demo: Engine, model: load.Model, more: dict[str, Any]) -> None:
    reply = demo.ask(list(PROMPT), logprobs=4, max_tokens=12, ignore_eos=True, **more)
    found = told(reply)
    assert b"".join(one.token for one in found).decode() == reply.text
    for one, (logprob, top) in zip(found, reference(model, found, 4), strict=True):
        assert one.logprob == pytest.approx(logprob, abs=2e-3)
        assert [value for _, value in one.top] == pytest.approx(top, abs=2e-3)
        if not more:
            assert one.top[0] == (one.token, one.logprob)


def test_each_row_of_a_batch_gets_what_it_asked_for(demo: Engine) -> None:
    counts = (None, 0, 1, 20, None, 5)
    alone = [demo.ask("The lamp", logprobs=count, max_tokens=8, ignore_eos=True) for count in counts]
    together = [
        demo.submit("The lamp", logprobs=count, max_tokens=8 + number, ignore_eos=True)
        for number, count in enumerate(counts)
    ]
    demo.finish(*together)
    for count, one, other in zip(counts, alone, together, strict=True):
        first, second = told(one), told(other)[:8]
        assert len(first) == (0 if count is None else 8)
        assert [entry.token for entry in first] == [entry.token for entry in second]
        assert {len(entry.top) for entry in first} <= {count}
        for a, b in zip(first, second, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=2e-3)
            assert a.top == sorted(a.top, key=lambda pair: -pair[1])


def test_the_end_of_the_text_is_no_token_of_it(demo: Engine) -> None:
    reply = demo.ask("Hello", logprobs=2, max_tokens=20, logit_bias={2: 100.0})
    assert (reply.text, reply.finish, told(reply)) == ("", "stop", [])


def test_tokens_that_are_parts_of_characters_come_as_their_bytes(demo: Engine) -> None:
    reply = demo.ask("Hello", logprobs=0, max_tokens=40, grammar=wire.Grammar("regex", "é{3}東"))
    assert reply.text == "ééé東"
    assert b"".join(one.token for one in told(reply)) == "ééé東".encode()
