"""Which context a model gets in the room there is, and how that is explained."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler import forecast
from reconciler.forecast import ForecastError, budget, fit_context
from reconciler.observed import MemoryObs, ModelFiles
from reconciler.units import Share
from tests.reconciler.forecast.test_shapes import DEEPSEEK_V3, GPT2, QWEN3_30B

GIB = 2**30
MOE = {**QWEN3_30B, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts_per_tok": 8}
FILES = ModelFiles(
    "present", weights_bytes=16 * GIB, parameters=30_000_000_000, config={**MOE, "vocab_size": 151936}
)
TINY = ModelFiles("present", weights_bytes=250_000_000, parameters=125_000_000, config=GPT2)


def fit(room: float, declared: int | str = "auto", ceiling: int | None = None) -> forecast.ContextFit:
    return fit_context(FILES, int(room * GIB), declared, ceiling=ceiling, backend="metal")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given_budget", "found"),
    [("auto", 48 * GIB), (Share(0.5), 32 * GIB), (54 * GIB, 54 * GIB), (0, 0)],
)
def test_the_budget_is_a_share_of_the_machine_or_an_amount(given_budget: object, found: int) -> None:
    assert budget(given_budget, MemoryObs(64 * GIB, 10 * GIB)) == found  # type: ignore[arg-type]


def test_a_budget_of_auto_is_what_the_host_says_and_nothing_else_is() -> None:
    memory = MemoryObs(64 * GIB, 10 * GIB, auto_bytes=40 * GIB)
    assert (budget("auto", memory), budget(Share(0.5), memory), budget(7, memory)) == (40 * GIB, 32 * GIB, 7)


def test_weights_are_what_the_headers_say() -> None:
    assert forecast.weights(FILES) == 16 * GIB
    assert forecast.weights(ModelFiles("present", weights_bytes=10, adapter_bytes=3)) == 13


def test_weights_of_a_download_are_its_size() -> None:
    assert forecast.weights(ModelFiles("downloading", progress=(5, 100))) == 100


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"quantization": {"bits": 4}}, 600),
        ({"quantization_config": {"bits": 8}}, 1200),
        ({"torch_dtype": "bfloat16"}, 2400),
        ({"torch_dtype": "float32"}, 4800),
        ({"quantization": ["nonsense"]}, 2400),
    ],
)
def test_the_rule_of_thumb_is_the_last_resort(config: dict[str, object], size: int) -> None:
    assert forecast.weights(ModelFiles("present", parameters=1000, config=config)) == size


def test_nothing_known_is_an_error_not_zero() -> None:
    with pytest.raises(ForecastError, match="not known"):
        forecast.weights(ModelFiles("absent"))


def test_the_sum_can_be_read_by_a_person() -> None:
    seen = forecast.forecast(FILES, context=32768, backend="metal")
    assert seen.total == seen.weights + seen.kv_one_request + seen.workspace + seen.process
    assert seen.arithmetic == (
        "weights 16.0 GiB + KV 32,768 tokens x 96 KiB = 3.0 GiB"
        " + workspace 199 MiB + process 128 MiB = 19.3 GiB"
    )


def test_what_quantised_keys_and_values_save_can_be_read_too() -> None:
    plain = forecast.forecast(FILES, context=32768, backend="metal")
    seen = forecast.forecast(FILES, context=32768, backend="metal", kv_bits=8)
    assert seen.kv_one_request == plain.kv_one_request * 68 // 128
    assert "KV 32,768 tokens x 51 KiB (kv_bits 8 saves 1.4 GiB) = 1.6 GiB" in seen.arithmetic


def test_a_quantised_cache_is_dequantised_one_layer_at_a_time_and_stays_fused() -> None:
    plain = forecast.workspace(MOE, 512, context=32768, backend="metal")
    quantised = forecast.workspace(MOE, 512, context=32768, backend="metal", kv_bits=8)
    layer = 2 * 4 * 128 * 2  # bytes of keys and values for each token
    assert quantised - plain == 32768 * layer * 68 // 128


def test_fused_attention_needs_less_than_the_score_matrix() -> None:
    metal = forecast.workspace(MOE, 512, context=32768, backend="metal")
    cpu = forecast.workspace(MOE, 512, context=32768, backend="cpu")
    assert cpu - metal == 32 * 512 * 32768 * 2
    assert forecast.workspace(MOE, 512, 4, context=32768) == 4 * forecast.workspace(MOE, 512, context=32768)


def test_mla_pays_for_scores_on_every_backend() -> None:
    big = {**DEEPSEEK_V3, "intermediate_size": 18432}
    assert forecast.workspace(big, 512, context=8192, backend="metal") > 2 * 128 * 512 * 8192 * 2


def test_auto_takes_the_models_own_maximum_where_it_fits() -> None:
    found = fit(64)
    assert (found.effective, found.fits) == (40960, True)
    assert "the model's own maximum" in found.why
    assert "<= room 64.0 GiB" in found.arithmetic


def test_auto_respects_the_ceiling_for_all_models() -> None:
    found = fit(64, ceiling=8192)
    assert found.effective == 8192
    assert "context.ceiling" in found.why


def test_auto_takes_the_most_that_fits() -> None:
    found = fit(18)
    assert found.fits
    assert found.effective % 256 == 0
    assert "the most that fits in 18.0 GiB" in found.why
    assert forecast.forecast(FILES, context=found.effective, backend="metal").total <= 18 * GIB
    assert forecast.forecast(FILES, context=found.effective + 256, backend="metal").total > 18 * GIB


def test_auto_never_goes_under_4096() -> None:
    least = forecast.forecast(FILES, context=4096, backend="metal").total
    assert fit_context(FILES, least, "auto", backend="metal").effective == 4096
    found = fit_context(FILES, least - 1, "auto", backend="metal")
    assert (found.fits, found.effective) == (False, 0)
    assert "4,096 tokens of context need 1 B more than there is" in found.why


def test_a_model_with_less_than_4096_uses_what_it_has() -> None:
    assert fit_context(TINY, 8 * GIB, "auto").effective == 1024


def test_a_declared_context_is_a_promise() -> None:
    assert fit(64, 40000).effective == 40000
    found = fit(18, 40000)
    assert (found.fits, found.effective) == (False, 0)
    assert "the most that fits is 18,688" in found.why


def test_a_declared_context_beyond_the_model_does_not_fit_anywhere() -> None:
    found = fit(1000, 50000)
    assert not found.fits
    assert "more than the model's own maximum of 40,960" in found.why


def test_a_declared_context_is_cut_by_the_ceiling_and_says_so() -> None:
    found = fit(64, 40000, ceiling=8000)
    assert (found.effective, found.fits) == (8000, True)
    assert "context.ceiling" in found.why


def test_a_config_without_a_maximum_gets_the_least() -> None:
    config = {k: v for k, v in MOE.items() if k != "max_position_embeddings"}
    files = ModelFiles("present", weights_bytes=GIB, parameters=10**9, config=config)
    assert fit_context(files, 64 * GIB, "auto").effective == 4096
    assert fit_context(files, 64 * GIB, 100_000).effective == 100_000


def test_files_that_say_too_little_do_not_fit_and_say_why() -> None:
    found = fit_context(ModelFiles("present", weights_bytes=1, config={}), GIB, "auto")
    assert not found.fits
    assert "config.json" in found.why


@settings(deadline=None)
@given(room=st.integers(0, 80 * GIB), more=st.integers(0, 10 * GIB), ceiling=st.integers(1, 300_000))
def test_more_room_never_means_less_context(room: int, more: int, ceiling: int) -> None:
    small = fit_context(FILES, room, "auto", ceiling=ceiling)
    large = fit_context(FILES, room + more, "auto", ceiling=ceiling)
    assert large.effective >= small.effective
    assert large.fits or not small.fits
    if small.fits:
        assert min(4096, ceiling) <= small.effective <= min(40960, ceiling)
        assert small.forecast is not None
        assert small.forecast.total <= room


NONSENSE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**30),
    st.floats(allow_nan=True),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(-2, 9), st.text(max_size=3)), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(-2, 9), max_size=3),
)
KEYS = sorted(
    {*MOE, *DEEPSEEK_V3, *GPT2}
    | {"layer_types", "sliding_window", "sliding_window_pattern", "attention_chunk_size", "text_config"}
    | {"num_kv_shared_layers", "full_attention_interval", "attn_layer_period", "hybrid_override_pattern"}
    | {
        "linear_attn_config",
        "linear_num_value_heads",
        "conv_L_cache",
        "full_attn_idxs",
        "quantization_config",
    }
)
KINDS = [
    "gemma3_text",
    "cohere2",
    "exaone4",
    "llama4",
    "gpt_oss",
    "olmo3",
    "qwen3_next",
    "jamba",
    "kimi_linear",
]
KINDS += ["nemotron_h", "lfm2", "falcon_h1", "mamba", "mamba2", "deepseek_v2", "bert", "gemma3n", "llama"]


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    changes=st.dictionaries(st.sampled_from(KEYS), NONSENSE, max_size=5),
)
def test_whatever_a_config_holds_the_answer_is_a_fit_or_a_reason(
    kind: str, changes: dict[str, object]
) -> None:
    files = ModelFiles("present", weights_bytes=10, config={**MOE, "model_type": kind, **changes})
    found = fit_context(files, 64 * GIB, "auto")
    assert found.why
    if found.forecast is not None:
        assert min(found.forecast.kv_one_request, found.forecast.workspace) >= 0
