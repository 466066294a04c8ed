"""Every way a folder can be wrong has its code and a sentence that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance import wire
from tests.engine import models
from tests.engine.client import Engine

Change = Callable[[Path], Any]


def edit(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(fields)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def cut(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:keep] if keep > 0 else data[: len(data) + keep])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index(folder: Path) -> None:
    names = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def no_tokenizer(folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()


FAILURES: dict[str, tuple[Change, str, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "unsupported_model", "no config.json"),
    "broken json": (
        lambda f: (f / "config.json").write_text('{"a": '),
        "unsupported_model",
        "line 1, column",
    ),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "unsupported_model", "JSON object"),
    "no model_type": (lambda f: edit(f, model_type=None), "unsupported_model", "model_type"),
    "unknown model_type": (lambda f: edit(f, model_type="nosuch"), "unsupported_model", "'nosuch'"),
    "missing setting": (lambda f: edit(f, hidden_size=None), "unsupported_model", "hidden_size"),
    "own code": (lambda f: edit(f, model_file="x.py"), "unsupported_model", "trust_remote_code: true"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "missing_weights", "no weights"),
    "only pickles": (pickled, "missing_weights", "pytorch_model.bin"),
    "shard missing": (index, "missing_weights", "model-00002-of-00002.safetensors"),
    "cut short": (lambda f: cut(f, -1000), "corrupt_weights", "cut short"),
    "cut in the header": (lambda f: cut(f, 100), "corrupt_weights", "cut short"),
    "empty weights": (lambda f: cut(f, 4), "corrupt_weights", "not a safetensors file"),
    "wrong shapes": (lambda f: edit(f, intermediate_size=64), "corrupt_weights", "do not fit config.json"),
    "missing layers": (lambda f: edit(f, num_hidden_layers=3), "corrupt_weights", "do not fit config.json"),
    "no tokenizer": (no_tokenizer, "bad_tokenizer", "tokenizer"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "bad_tokenizer", "tokenizer"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_folder_that_cannot_be_loaded_says_why(
    name: str, folder: Path, tmp_path: Path, start: Callable[[], Engine]
) -> None:
    change, code, words = FAILURES[name]
    broken = tmp_path / "model"
    shutil.copytree(folder, broken)
    change(broken)
    engine = start()
    failed = engine.fail_to_load(broken)
    assert (failed.code, failed.permanent) == (code, True)
    assert words in failed.message
    assert engine.drain() == wire.EXIT_LOAD_FAILED


def test_a_folder_that_is_not_there(tmp_path: Path, start: Callable[[], Engine]) -> None:
    failed = start().fail_to_load(tmp_path / "nowhere")
    assert (failed.code, failed.permanent) == ("missing_weights", True)
    assert "no model folder" in failed.message


def test_a_loaded_model_says_what_it_is(folder: Path, start: Callable[[], Engine]) -> None:
    engine = start()
    loaded = engine.load(folder)
    size = (folder / "model.safetensors").stat().st_size
    assert loaded.model_type == "qwen3"
    assert loaded.context_max == 2048
    assert 0.9 * size < loaded.weights_bytes < size
    assert loaded.active_bytes >= loaded.weights_bytes
    assert loaded.batchable
    assert loaded.batch_why is None
    assert loaded.backend == "cpu"
    hello = engine.frames[0]
    assert isinstance(hello, wire.Hello)
    assert (hello.pid, hello.protocol) == (engine.process.pid, wire.PROTOCOL)
    progress = [frame for frame in engine.frames if isinstance(frame, wire.Progress)]
    assert progress[0].done == 0
    assert progress[-1].done == progress[-1].total == loaded.weights_bytes


def test_a_lora_adapter_changes_the_output(folder: Path, tmp_path: Path, start: Callable[[], Engine]) -> None:
    plain, adapted = start(), start()
    plain.load(folder)
    adapted.load(folder, adapter=str(models.adapter(tmp_path / "adapter")))
    texts = [engine.ask("The quick", max_tokens=20, ignore_eos=True).text for engine in (plain, adapted)]
    assert texts[0] != texts[1]


def test_an_adapter_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, start: Callable[[], Engine]
) -> None:
    wider = {**models.QWEN3, "hidden_size": 128}
    for path, words in (
        (tmp_path / "nowhere", "has no adapter_config.json"),
        (models.adapter(tmp_path / "wide", wider), "does not fit"),
    ):
        failed = start().fail_to_load(folder, adapter=str(path))
        assert (failed.code, failed.permanent) == ("bad_adapter", True)
        assert words in failed.message


def test_a_model_without_a_chat_template_serves_plain_prompts(
    tmp_path: Path, start: Callable[[], Engine]
) -> None:
    folder = models.write(tmp_path / "model")
    models.tokenizer(folder, template=None)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    engine = start()
    engine.load(folder)
    refused = engine.ask(messages=[{"role": "user", "content": "x"}]).refused
    assert refused is not None
    assert "no chat template" in refused.message
    assert engine.ask("dog", max_tokens=2, ignore_eos=True).finish == "length"
