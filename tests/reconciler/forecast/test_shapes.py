"""Cache shapes of published models, worked out by hand from their config.json."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.forecast import ForecastError, kv_bytes_per_token, own_context, rows_bytes
from reconciler.kv_shape import dtype_bytes
from reconciler.observed import ModelFiles

Config = dict[str, Any]
KIB = 1024

QWEN3_30B: Config = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
    "quantization": {"group_size": 64, "bits": 4},
}
LLAMA_8B: Config = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V3: Config = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}
DEEPSEEK_V2_LITE: Config = {
    **DEEPSEEK_V3,
    "model_type": "deepseek_v2",
    "hidden_size": 2048,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
}
DEEPSEEK_V32: Config = {**DEEPSEEK_V3, "model_type": "deepseek_v32", "index_head_dim": 128}
GEMMA3_4B: Config = {  # as published: heads and head size are left to defaults
    "model_type": "gemma3",
    "torch_dtype": "bfloat16",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
}
QWEN3_NEXT: Config = {
    "model_type": "qwen3_next",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "full_attention_interval": 4,
    "linear_num_value_heads": 32,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}
GPT_OSS: Config = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
}
PHI3: Config = {
    "model_type": "phi3",
    "hidden_size": 3072,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "sliding_window": 2047,
}
GPT2: Config = {"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}
UNKNOWN: Config = {**LLAMA_8B, "model_type": "never_heard_of", "layer_types": ["sliding_attention"] * 32}


@pytest.mark.parametrize(
    ("config", "per_token"),
    [
        (QWEN3_30B, 96 * KIB),  # 48 layers x 2 x 4 heads x 128 x 2 bytes
        (LLAMA_8B, 128 * KIB),
        (DEEPSEEK_V3, 61 * (512 + 64) * 2),  # one latent and one rotary key, whatever the heads
        (DEEPSEEK_V2_LITE, 27 * 16 * (128 + 64 + 128) * 2),  # mlx-lm keeps it expanded
        (DEEPSEEK_V32, 61 * (512 + 64 + 128) * 2),  # and an index key
        (GEMMA3_4B, 5 * 2 * 4 * 256 * 2),  # every sixth layer sees everything
        (QWEN3_NEXT, 12 * 2 * 2 * 256 * 2),  # every fourth layer has attention
        (GPT_OSS, 12 * 2 * 8 * 64 * 2),
        (PHI3, 32 * 2 * 32 * 96 * 2),  # its window is not used
        (GPT2, 12 * 2 * 768 * 2),
        (UNKNOWN, 128 * KIB),  # never too little
    ],
)
def test_bytes_per_token(config: Config, per_token: int) -> None:
    assert kv_bytes_per_token(config).per_token == per_token


def test_windows_stop_growing_and_hold_a_chunk_more_in_prefill() -> None:
    shape = kv_bytes_per_token(GEMMA3_4B)
    sliding = 29 * 2 * 4 * 256 * 2
    assert shape.row(32768, 512) == 32768 * shape.per_token + (1024 + 511) * sliding
    assert shape.row(512, 512) == 512 * (shape.per_token + sliding)


def test_states_do_not_grow_at_all() -> None:
    shape = kv_bytes_per_token(QWEN3_NEXT)
    tail = 3 * (2 * 16 * 128 + 32 * 128) * 2
    matrix = 32 * 128 * 128 * 4
    assert shape.state == 36 * (tail + matrix)
    assert shape.row(512) - shape.row(256) == 256 * shape.per_token


def test_the_cache_grows_in_steps_of_256_tokens() -> None:
    shape = kv_bytes_per_token(LLAMA_8B)
    assert shape.row(1) == shape.row(256) == 256 * shape.per_token
    assert shape.row(257) == 512 * shape.per_token


@pytest.mark.parametrize(("bits", "bytes_for_64"), [(4, 32 + 4), (8, 64 + 4)])
def test_a_quantized_cache_has_a_scale_and_a_bias_for_each_64(bits: int, bytes_for_64: int) -> None:
    per_token = 32 * 2 * 8 * 128
    assert kv_bytes_per_token(LLAMA_8B, kv_bits=bits).per_token == per_token * bytes_for_64 // 64


@pytest.mark.parametrize(
    ("heads", "bytes_for_head"),
    [(128, 128 + 2 * 4), (96, 96 + 3 * 4), (32, 32 + 4)],  # groups of 64 where they fit, else of 32
)
def test_heads_that_groups_of_64_do_not_fit_get_groups_of_32(heads: int, bytes_for_head: int) -> None:
    config = {**LLAMA_8B, "head_dim": heads}
    assert kv_bytes_per_token(config, kv_bits=8).per_token == 32 * 2 * 8 * bytes_for_head


def test_only_layers_that_keep_every_token_are_quantized() -> None:
    plain, eight = kv_bytes_per_token(GEMMA3_4B), kv_bytes_per_token(GEMMA3_4B, kv_bits=8)
    assert eight.per_token == plain.per_token * 68 // 128
    assert plain.row(4096) - eight.row(4096) == 4096 * (plain.per_token - eight.per_token)
    assert kv_bytes_per_token(QWEN3_NEXT, kv_bits=4).state == kv_bytes_per_token(QWEN3_NEXT).state


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({**LLAMA_8B, "head_dim": 80}, "heads of 80 elements"),
        (GPT_OSS, "sinks"),
        (DEEPSEEK_V3, "attention of deepseek_v3"),
        ({**LLAMA_8B, "model_type": "gemma2"}, "attention of gemma2"),
        ({"model_type": "mamba2", "num_hidden_layers": 2, "num_heads": 8, "head_dim": 64}, "save nothing"),
    ],
)
def test_what_cannot_be_quantized_says_what_to_do(config: Config, why: str) -> None:
    with pytest.raises(ForecastError, match=f"kv_bits: 8; remove `kv_bits`.*{why}"):
        kv_bytes_per_token(config, kv_bits=8)


def test_expanded_mla_can_be_quantized() -> None:
    assert kv_bytes_per_token(DEEPSEEK_V2_LITE, kv_bits=8).quantized_group == 64


def test_an_encoder_keeps_no_cache() -> None:
    bert = {"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
    assert kv_bytes_per_token(bert).row(512) == 0


def test_a_batch_is_rows_times_the_longest() -> None:
    one = kv_bytes_per_token(LLAMA_8B).row(3000)
    assert rows_bytes(LLAMA_8B, [3000, *[64] * 7]) == 8 * one
    assert rows_bytes(LLAMA_8B, []) == 0


@pytest.mark.parametrize(
    ("config", "files", "size"),
    [
        ({"torch_dtype": "float32"}, None, 4),
        ({"dtype": "float32"}, None, 4),
        ({"torch_dtype": "bfloat16"}, None, 2),
        ({}, None, 2),
        ({"text_config": {"dtype": "float32"}}, None, 4),
        ({"torch_dtype": "bfloat16"}, (400, 100), 4),  # the files know better
        ({"torch_dtype": "float32"}, (200, 100), 2),
        ({"torch_dtype": "bfloat16", "quantization": {"bits": 4}}, (400, 100), 2),
    ],
)
def test_cache_elements_have_the_size_of_activations(
    config: Config, files: tuple[int, int] | None, size: int
) -> None:
    found = ModelFiles("present", weights_bytes=files[0], parameters=files[1]) if files else None
    assert dtype_bytes(config, found) == size


@pytest.mark.parametrize(
    ("config", "tokens"),
    [(QWEN3_30B, 40960), (GPT2, 1024), (GEMMA3_4B, 32768), ({"max_position_embeddings": "many"}, None)],
)
def test_the_models_own_context(config: Config, tokens: int | None) -> None:
    assert own_context(config) == tokens


def test_a_config_that_says_too_little_is_named() -> None:
    with pytest.raises(ForecastError, match="num_hidden_layers"):
        kv_bytes_per_token({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4})
