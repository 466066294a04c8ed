"""Logits of the last token alone: those of the whole, or none, and the model is as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core
import mlx.nn as nn
import pytest

from appliance import wire
from appliance.engine import caches, head, load, weights
from tests.engine import models

mx: Any = mlx.core
KINDS = {"tied": models.QWEN3, "sliding": models.GEMMA3, "hybrid": models.QWEN3_NEXT}


@pytest.fixture(scope="module", params=[*KINDS, "its own"])
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = {**KINDS.get(request.param, models.QWEN3)}
    config["tie_word_embeddings"] = request.param != "its own"
    folder = models.write(tmp_path_factory.mktemp("head") / "model", config)
    order = wire.Load(model="test", path=str(folder))
    return load.load(order, weights.check(order), lambda done, total: None).net


def test_the_last_tokens_logits_are_those_of_the_whole(net: Any) -> None:
    found = head.find(net, None)
    assert found is not None
    assert found.layers == len(net.layers)
    tokens = mx.arange(5, 45)[None]
    whole = net(tokens, cache=caches.make(net, None))
    with found.last():
        last = net(tokens, cache=caches.make(net, None))
    assert last.shape == (1, 1, whole.shape[-1])
    assert mx.abs(last[0, 0] - whole[0, -1]).max().item() < 1e-4 * mx.abs(whole).max().item()
    assert net(tokens, cache=caches.make(net, None)).shape == whole.shape, "outside it is as it was"


class Net(nn.Module):
    """A vocabulary of 32, and no layers. mixes: what comes behind the output matrix sees all tokens."""

    def __init__(self, outputs: int = 1, mixes: bool = False) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(32, 8)
        for number in range(outputs):
            setattr(self, f"part{number}", nn.Module())
            getattr(self, f"part{number}").lm_head = nn.Linear(8, 32)
        self.mixes = mixes
        self.layers: list[Any] = []

    def __call__(self, tokens: Any, cache: Any = None) -> Any:
        out = self.part0.lm_head(self.embed_tokens(tokens))
        return out - out.mean(axis=1, keepdims=True) if self.mixes else out


@pytest.mark.parametrize("how", [{"mixes": True}, {"outputs": 2}])
def test_what_cannot_be_had_alone_is_left_alone(how: dict[str, Any]) -> None:
    made = Net(**how)
    kinds = [type(module) for module in made.modules()]
    assert head.find(made, None) is None
    assert [type(module) for module in made.modules()] == kinds


def test_a_model_that_fails_on_it_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Net):
        def __call__(self, tokens: Any, cache: Any = None) -> Any:
            return super().__call__(tokens).reshape(1, head.TRIAL, 32)

    made = Fails()
    assert head.find(made, None) is None
    assert type(made.part0.lm_head) is nn.Linear
    assert "cannot be had alone" in caplog.text


def test_adapted_matrices_are_left_alone(tmp_path: Path) -> None:
    class Adapted(nn.Linear):
        pass

    made = Net()
    made.part0.lm_head = Adapted(8, 32)
    found = head.find(made, None)
    assert found is not None, "a class of its own is derived from"
    with found.last():
        assert made(mx.array([[1, 2, 3]])).shape == (1, 1, 32)
    assert isinstance(made.part0.lm_head, Adapted)
