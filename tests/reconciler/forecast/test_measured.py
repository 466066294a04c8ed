"""The forecast against what MLX really allocates, in a child process of the test.

Tolerances are the promise: weights within 2 %, cache within 10 %, the whole never more than 10 % short,
and for the usual shape never more than 25 % too much. Lengths count prompt plus output, as contexts do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.hub import find
from reconciler import forecast
from reconciler.kv_shape import kv_bytes_per_token
from reconciler.observed import ModelFiles
from tests.reconciler.forecast.configs import ARCHITECTURES, QWEN3

ROOT = Path(__file__).resolve().parents[3]
CHUNK, CONTEXT = 256, 768
CONTEXTS = {"short": (256, 256), "chunks": (CHUNK, CONTEXT), "long": (512, 2048)}
ROWS = {"equal": [512, 512, 512, 512], "one long": [1024, 64, 64, 64]}


def run(folder: Path, cases: list[dict[str, Any]]) -> list[dict[str, int]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.reconciler.forecast.measured", str(folder)],
        input=json.dumps(cases),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


class Measured:
    """One case beside its forecast."""

    def __init__(
        self,
        files: ModelFiles,
        chunk: int,
        lengths: list[int],
        seen: dict[str, int],
        kv_bits: int | None = None,
    ) -> None:
        self.files, self.seen = files, seen
        self.forecast = forecast.forecast(
            files, context=max(lengths), prefill_chunk=chunk, backend="cpu", kv_bits=kv_bits
        )
        self.rows = forecast.rows_bytes(files.config, lengths, element_bytes=4, kv_bits=kv_bits)

    @property
    def total(self) -> float:
        """Forecast over real, of what MLX holds: the process around it is not in MLX's figure."""
        return (self.forecast.total - self.forecast.process) / self.seen["peak"]


def measured(
    folder: Path, cases: dict[str, tuple[dict[str, Any], int, list[int]]], kv_bits: int | None = None
) -> dict[str, Measured]:
    asked = [
        {"config": config, "chunk": chunk, "lengths": lengths, "kv_bits": kv_bits}
        for config, chunk, lengths in cases.values()
    ]
    seen = run(folder, asked)
    return {
        name: Measured(find(str(folder / str(number))), chunk, lengths, seen[number], kv_bits)
        for number, (name, (_, chunk, lengths)) in enumerate(cases.items())
    }


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measured]:
    cases = {
        f"{size} {length}": (config, chunk, [context])
        for size, config in QWEN3.items()
        for length, (chunk, context) in CONTEXTS.items()
        if (size, length) != ("wide", "long")
    }
    rows = {f"rows {name}": (QWEN3["small"], CHUNK, lengths) for name, lengths in ROWS.items()}
    return measured(tmp_path_factory.mktemp("usual"), cases | rows)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measured]:
    cases = {name: (config, CHUNK, [CONTEXT]) for name, config in ARCHITECTURES.items()}
    return measured(tmp_path_factory.mktemp("others"), cases)


QUANTIZED = {
    "chunks": (QWEN3["small"], CHUNK, [CONTEXT]),
    "many keys": (QWEN3["deep"], CHUNK, [CONTEXT]),
    "long": (QWEN3["small"], 512, [2048]),
    "small groups": (ARCHITECTURES["llama"], CHUNK, [CONTEXT]),
    "rows": (QWEN3["small"], CHUNK, [1024, 64, 64, 64]),
    "windows": (ARCHITECTURES["gemma3_text"], CHUNK, [CONTEXT]),
    "states": (ARCHITECTURES["qwen3_next"], CHUNK, [CONTEXT]),
}


@pytest.fixture(scope="module", params=[4, 8])
def quantized(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Measured]:
    return measured(tmp_path_factory.mktemp("quantized"), QUANTIZED, request.param)


SIZES = [f"{size} {length}" for size in QWEN3 for length in CONTEXTS if (size, length) != ("wide", "long")]


@pytest.mark.parametrize("name", SIZES)
def test_weights_are_within_two_percent(usual: dict[str, Measured], name: str) -> None:
    case = usual[name]
    assert case.files.state == "present", case.files.message
    assert case.forecast.weights == pytest.approx(case.seen["weights"], rel=0.02)


@pytest.mark.parametrize("name", SIZES)
def test_the_cache_of_one_request_is_within_ten_percent(usual: dict[str, Measured], name: str) -> None:
    case = usual[name]
    assert case.forecast.kv_one_request == pytest.approx(case.seen["cache"], rel=0.10)


@pytest.mark.parametrize("name", SIZES)
def test_the_whole_is_neither_short_nor_much_too_much(usual: dict[str, Measured], name: str) -> None:
    assert 0.90 <= usual[name].total <= 1.25


@pytest.mark.parametrize("name", list(ROWS))
def test_a_batch_costs_rows_times_the_longest(usual: dict[str, Measured], name: str) -> None:
    case = usual[f"rows {name}"]
    assert case.rows == pytest.approx(case.seen["cache"], rel=0.10)


def test_padding_makes_one_long_row_cost_as_much_as_all_of_them_long(usual: dict[str, Measured]) -> None:
    alone = [forecast.rows_bytes(QWEN3["small"], [length]) for length in ROWS["one long"]]
    together = forecast.rows_bytes(QWEN3["small"], ROWS["one long"])
    assert together == 4 * alone[0]
    assert together > 2 * sum(alone)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_other_architectures_keep_the_cache_that_was_forecast(others: dict[str, Measured], name: str) -> None:
    case = others[name]
    assert case.files.state == "present", case.files.message
    assert case.forecast.kv_one_request == pytest.approx(case.seen["cache"], rel=0.10)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_other_architectures_are_never_forecast_short(others: dict[str, Measured], name: str) -> None:
    assert 0.90 <= others[name].total <= 1.5


@pytest.mark.parametrize("name", ["chunks", "many keys", "long", "small groups", "states"])
def test_a_quantized_cache_is_forecast_to_the_byte(quantized: dict[str, Measured], name: str) -> None:
    assert quantized[name].forecast.kv_one_request == quantized[name].seen["cache"]


def test_a_batch_of_quantized_rows_costs_rows_times_the_longest(quantized: dict[str, Measured]) -> None:
    assert quantized["rows"].rows == pytest.approx(quantized["rows"].seen["cache"], rel=0.10)


def test_windows_beside_quantized_layers_stay_as_they_are(quantized: dict[str, Measured]) -> None:
    case = quantized["windows"]
    assert case.forecast.kv_one_request == pytest.approx(case.seen["cache"], rel=0.01)


@pytest.mark.parametrize("name", [name for name in QUANTIZED if name != "rows"])
def test_the_whole_of_a_quantized_model_is_neither_short_nor_much_too_much(
    quantized: dict[str, Measured], name: str
) -> None:
    assert 0.90 <= quantized[name].total <= 1.25


def test_a_quantized_cache_costs_what_mlx_makes_of_it(tmp_path: Path) -> None:
    cases = [{"bits": bits, "heads": 2, "width": 64, "tokens": 512} for bits in (4, 8)]
    config = {**QWEN3["small"], "num_hidden_layers": 1, "torch_dtype": "float16"}
    for case, seen in zip(cases, run(tmp_path, cases), strict=True):
        assert kv_bytes_per_token(config, kv_bits=case["bits"]).row(512) == seen["cache"]
