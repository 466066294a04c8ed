"""The forecast of encoders: no cache, the workspace of one slice, and the ceiling that their files name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance import wire
from appliance.hub import find
from reconciler import forecast
from reconciler.encoder_shape import SLICE, encoder_workspace, input_limit
from reconciler.kv_shape import ForecastError
from reconciler.observed import ModelFiles
from reconciler.sizing import size_of
from reconciler.spec import Model, Spec
from tests.engine.client import Engine
from tests.engine.encoders import folders

LARGE: dict[str, Any] = {  # bge-m3
    "model_type": "xlm-roberta",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 8194,
    "pad_token_id": 1,
    "vocab_size": 250002,
}


def test_the_forecast_of_real_weights_holds_what_the_engine_takes(tmp_path: Path) -> None:
    priced = forecast.forecast(find(str(folders.minilm())), context=256, encodes=True, backend="cpu")
    engine = Engine(tmp_path / "engine.log")
    try:
        loaded = engine.load(folders.minilm(), role="embedding")
        assert priced.weights == pytest.approx(loaded.weights_bytes, rel=0.02)
        engine.send(wire.Embed(1, ["word " * 250] * 20))  # the first slice is as large as they come
        engine.expect(wire.Embedded)
        seen = len(engine.beats)
        engine.until(lambda: len(engine.beats) > seen)
        worked = engine.beats[-1].peak_bytes - loaded.weights_bytes
        assert worked <= 1.1 * priced.workspace
        assert priced.workspace <= 2 * worked
    finally:
        engine.close()
    assert priced.kv_one_request == 0
    assert priced.total == priced.weights + priced.workspace + priced.process
    assert "KV" not in priced.arithmetic


def test_half_precision_files_take_twice_their_size_on_the_cpu() -> None:
    files = ModelFiles("present", weights_bytes=2 * 568_000_000, parameters=568_000_000, config=LARGE)
    cpu = forecast.forecast(files, context=512, encodes=True, backend="cpu")
    metal = forecast.forecast(files, context=512, encodes=True, backend="metal")
    assert (cpu.weights, metal.weights) == (4 * 568_000_000, 2 * 568_000_000)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LARGE, 8192),
        ({**LARGE, "max_seq_length": 512}, 512),
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "nomic_bert", "n_positions": 8192}, 8192),
        ({"model_type": "bert"}, None),
    ],
)
def test_the_ceiling_is_the_least_that_any_file_names(config: dict[str, Any], limit: int | None) -> None:
    assert input_limit(config) == limit


def test_a_longer_input_needs_more_and_never_less_than_a_slice() -> None:
    def priced(context: int, **more: Any) -> int:
        return encoder_workspace({**LARGE, **more}, context=context, backend="cpu", element_bytes=4)

    sizes = [priced(tokens) for tokens in (16, 512, 2048, 4096, 8192)]
    assert sizes == sorted(sizes)
    assert sizes[0] > SLICE["cpu"] * 1024 * 4
    assert priced(8192, model_type="qwen3") > 4 * priced(8192)  # its scores are not computed in parts
    with pytest.raises(ForecastError, match="hidden_size"):
        encoder_workspace({}, context=1, backend="cpu", element_bytes=4)


def test_an_encoder_is_sized_by_its_role(tmp_path: Path) -> None:
    files = find(str(folders.minilm()))
    spec = Spec(version=1, active=None, models={})
    sizes = {role: size_of(Model(source="./x", role=role), files, spec) for role in ("chat", "embedding")}
    assert (sizes["chat"].most_context, sizes["embedding"].most_context) == (512, 256)
    assert sizes["embedding"].problem is None
    assert "inputs of up to 256 tokens" in sizes["embedding"].arithmetic(256)
    assert sizes["embedding"].context_in(sizes["embedding"].at(256))[0] == 256
