"""Tiny models with random weights, and a tokenizer, made on the spot.

The weights are random but the architecture, the files and the tokenizer are real: what is tested is the
engine, not what the model says.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
from mlx.utils import tree_flatten
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'forbidden' %}{{ raise_exception('no such role here') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    "{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}"
    "{% if flavour is defined %}{{ flavour }}{% endif %}"
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "A model appliance loads one model, answers questions, and swaps it when the file changes.",
    "Größe, naïve, 東京, 🙂 and other characters of more than one byte.",
]

QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
GEMMA3: dict[str, Any] = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 16,
    "sliding_window_pattern": 2,
    "max_position_embeddings": 2048,
}
QWEN3_NEXT: dict[str, Any] = {
    **QWEN3,
    "model_type": "qwen3_next",
    "num_hidden_layers": 4,
    "full_attention_interval": 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "num_experts": 0,
    "num_experts_per_tok": 1,
    "decoder_sparse_step": 1,
    "shared_expert_intermediate_size": 64,
    "mlp_only_layers": [],
    "moe_intermediate_size": 64,
    "partial_rotary_factor": 0.5,
}
LLAMA4: dict[str, Any] = {
    "model_type": "llama4",
    "text_config": {
        "model_type": "llama4_text",
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "intermediate_size": 64,
        "intermediate_size_mlp": 128,
        "interleave_moe_layer_step": 2,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "use_qk_norm": True,
        "attention_chunk_size": 64,
        "attention_bias": False,
        "max_position_embeddings": 2048,
    },
}


def tokenizer(folder: Path, template: str | None = TEMPLATE, special: Sequence[str] = ()) -> int:
    """Write a byte-level BPE tokenizer with a chat template; its vocabulary's size. special: more markers."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|im_start|>", "<|im_end|>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<|im_end|>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return len(fast)


def write(
    folder: Path,
    config: dict[str, Any] = QWEN3,
    *,
    seed: int = 1,
    scale: float = 4.0,
    template: str | None = TEMPLATE,
    special: Sequence[str] = (),
    **more: Any,
) -> Path:
    """A whole model folder: config, float32 weights, tokenizer. `scale` makes its choices decided."""
    folder.mkdir(parents=True, exist_ok=True)
    size = tokenizer(folder, template, special)
    config = {**config, "vocab_size": size, **more}
    if "text_config" in config:
        config["text_config"] = {**config["text_config"], "vocab_size": size}
    config.setdefault("eos_token_id", 1)
    (folder / "config.json").write_text(json.dumps(config))
    arch: Any = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = arch.Model(arch.ModelArgs.from_dict(config))
    mx.random.seed(seed)
    weights = {}
    for name, array in tree_flatten(model.parameters()):
        if array.ndim > 1 and "conv" not in name:
            array = mx.random.normal(array.shape) * (scale / array.shape[-1] ** 0.5)
        weights[name] = array.astype(mx.float32)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def adapter(folder: Path, config: dict[str, Any] = QWEN3, *, rank: int = 4) -> Path:
    """A LoRA adapter over the query projections, in mlx-lm's format."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = ["self_attn.q_proj", "self_attn.v_proj"]
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "fine_tune_type": "lora",
                "num_layers": config["num_hidden_layers"],
                "lora_parameters": {"rank": rank, "scale": 20.0, "dropout": 0.0, "keys": keys},
            }
        )
    )
    hidden, head = config["hidden_size"], config["head_dim"]
    outs = {"q_proj": config["num_attention_heads"] * head, "v_proj": config["num_key_value_heads"] * head}
    mx.random.seed(7)
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        for name, out in outs.items():
            base = f"model.layers.{layer}.self_attn.{name}"
            weights[f"{base}.lora_a"] = mx.random.normal((hidden, rank))
            weights[f"{base}.lora_b"] = mx.random.normal((rank, out))
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    return folder


def generated(model: Any, tokenizer: Any, prompt: Any, tokens: int) -> str:
    """mlx-lm's own text, and the space at its beginning, which mlx-lm leaves out."""
    found = list(mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=tokens))
    text = "".join(one.text for one in found)
    begins = tokenizer.decode([one.token for one in found]).startswith(" ")
    return f" {text}" if begins and not text.startswith(" ") else text
