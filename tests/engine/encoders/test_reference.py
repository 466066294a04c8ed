"""Encoders compute what the reference implementations compute for the same weights.

Small random weights of every architecture (`folders`); what PyTorch, transformers and sentence-transformers
make of them is in tests/goldens/encoders.json. `test_engine` does the same with real weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance import wire
from appliance.engine import weights
from appliance.engine.encoders import load
from appliance.engine.encoders.tokens import Item
from tests.engine.encoders import folders

GOLDENS = json.loads((Path(__file__).parents[2] / "goldens" / "encoders.json").read_text())
CLOSE = 1e-4


def opened(folder: Path, role: Any) -> load.Model:
    order = wire.Load("test", str(folder), role=role)
    return load.load(order, weights.check(order), lambda done, total: None)


def vectors(model: load.Model, texts: list[str], *, truncate: bool = False) -> Any:
    return model.run(model.tokens.texts(list(texts), model.context_max, truncate=truncate))


@pytest.mark.parametrize("name", folders.EMBEDDING)
def test_every_architecture_and_pooling_gives_the_reference_vectors(name: str, tmp_path: Path) -> None:
    model = opened(folders.EMBEDDING[name](tmp_path), "embedding")
    wanted = np.array(GOLDENS["embedding"][name])
    assert np.abs(vectors(model, list(folders.TEXTS)) - wanted).max() < CLOSE
    assert model.width == wanted.shape[1]


@pytest.mark.parametrize("name", folders.RERANK)
def test_every_reranker_gives_the_reference_scores(name: str, tmp_path: Path) -> None:
    model = opened(folders.RERANK[name](tmp_path), "rerank")
    items = model.pairs(folders.QUERY, folders.TEXTS, None, model.context_max, truncate=False)
    wanted = np.array(GOLDENS["rerank"][name])
    assert np.abs(model.run(items)[:, 0] - wanted).max() < CLOSE
    assert np.ptp(wanted) > 100 * CLOSE  # scores that are all alike would prove nothing


def test_an_instruction_changes_what_qwen3_looks_for(tmp_path: Path) -> None:
    model = opened(folders.qwen3_ranker(tmp_path), "rerank")
    told = folders.INSTRUCTION
    items = model.pairs(folders.QUERY, folders.TEXTS, told, model.context_max, truncate=False)
    wanted = np.array(GOLDENS["rerank"]["qwen3, told what to look for"])
    assert np.abs(model.run(items)[:, 0] - wanted).max() < CLOSE


@pytest.mark.parametrize("role", ["embedding", "rerank"])
def test_half_precision_weights_are_computed_in_single_precision_on_the_cpu(
    role: str, tmp_path: Path
) -> None:
    import mlx.core as mx

    folder = {"embedding": folders.xlm_embedding, "rerank": folders.xlm_ranker}[role](tmp_path)
    exact = opened(folder, role)
    half = {name: value.astype(mx.float16) for name, value in load.read(folder).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), half, metadata={"format": "pt"})
    model = opened(folder, role)
    assert model.weights_bytes == exact.weights_bytes
    items = [Item(np.array([0, 14, 15, 16, 2], dtype=np.int32))]
    assert 0 < np.abs(model.run(items) - exact.run(items)).max() < 0.02


def test_a_quantised_encoder_stays_near_its_original(tmp_path: Path) -> None:
    import mlx.core as mx

    folder = folders.bert_embedding(tmp_path, "mean_tokens")
    exact = vectors(opened(folder, "embedding"), list(folders.TEXTS))
    quantised: dict[str, Any] = {}
    for name, value in load.read(folder).items():
        if value.ndim == 2:
            parts = mx.quantize(value, group_size=32, bits=8)
            root = name.removesuffix(".weight")
            quantised |= {
                f"{root}.{kind}": part
                for kind, part in zip(("weight", "scales", "biases"), parts, strict=True)
            }
        else:
            quantised[name] = value
    mx.save_safetensors(str(folder / "model.safetensors"), quantised, metadata={"format": "mlx"})
    config = json.loads((folder / "config.json").read_text())
    folders.put(folder / "config.json", {**config, "quantization": {"group_size": 32, "bits": 8}})
    model = opened(folder, "embedding")
    near = vectors(model, list(folders.TEXTS))
    assert 0 < np.abs(near - exact).max() < 0.05


Broken = Callable[[Path], None]


def edit(name: str, **values: Any) -> Broken:
    def apply(folder: Path) -> None:
        file = folder / name
        folders.put(file, {**json.loads(file.read_text()), **values})

    return apply


def drop(name: str) -> Broken:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("breaking", "code", "words"),
    [
        (edit("config.json", model_type="t5"), "unsupported_model", "'t5' is not supported; supported: bert"),
        (edit("config.json", position_embedding_type="relative_key"), "unsupported_model", "relative_key"),
        (edit("config.json", hidden_act="mish"), "unsupported_model", "'mish'"),
        (edit("config.json", hidden_size=None), "unsupported_model", "does not say hidden_size"),
        (edit("config.json", intermediate_size=128), "corrupt_weights", "config.json says ["),
        (edit("config.json", num_hidden_layers=3), "corrupt_weights", "weights are missing"),
        (edit("config.json", num_hidden_layers=1), "unsupported_model", "no place"),
        (edit("config.json", type_vocab_size=0), "unsupported_model", "no place"),
        (drop("modules.json"), "unsupported_model", "does not say how token vectors become one"),
        (drop("tokenizer.json"), "bad_tokenizer", "save_pretrained"),
        (edit("1_Pooling/config.json", pooling_mode="cat_video"), "unsupported_model", "cat_video"),
        (edit("1_Pooling/config.json", include_prompt=False), "unsupported_model", "leaves prompts out"),
    ],
)
def test_what_cannot_be_loaded_is_told_for_good(
    breaking: Broken, code: str, words: str, tmp_path: Path
) -> None:
    folder = folders.bert_embedding(tmp_path, "mean_tokens")
    breaking(folder)
    with pytest.raises(weights.BadModel) as raised:
        opened(folder, "embedding")
    assert raised.value.code == code
    assert raised.value.permanent
    assert words in raised.value.message


def test_an_embedding_model_cannot_rank(tmp_path: Path) -> None:
    folder = folders.xlm_embedding(tmp_path)
    with pytest.raises(weights.BadModel, match=r"no classification head.*set role: embedding"):
        opened(folder, "rerank")


def test_no_module_leads_out_of_the_folder(tmp_path: Path) -> None:
    folder = folders.bert_embedding(tmp_path / "model", "mean_tokens")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = "../elsewhere"
    folders.put(folder / "modules.json", modules)
    with pytest.raises(weights.BadModel, match="outside the model's own"):
        opened(folder, "embedding")


def test_the_default_prompt_goes_before_every_text(tmp_path: Path) -> None:
    folder = folders.bert_embedding(tmp_path, "mean_tokens")
    plain = vectors(opened(folder, "embedding"), ["the cat sat on the mat ."])
    said = {"prompts": {"query": "the cat "}, "default_prompt_name": "query"}
    folders.put(folder / "config_sentence_transformers.json", said)
    prompted = vectors(opened(folder, "embedding"), ["sat on the mat ."])
    assert np.abs(prompted - plain).max() < 1e-6
