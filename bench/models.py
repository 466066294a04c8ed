"""Random-weight shapes with the demo model's tokenizer, made on the spot; as a script it imports MLX.

The rows of the end-of-text token, of white space and of pieces of characters are zero in the (tied) output
matrix: greedy decoding never ends early, and each token is text at once, so that a first token can be seen on
every side. (White space before an answer may belong to a marker, and LMX waits for what comes behind it.)
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BASE: dict[str, Any] = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
SHAPES: dict[str, dict[str, Any]] = {
    "5m": {
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "intermediate_size": 768,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
    },
    # Few heads: MLX's exponential on the CPU is scalar, and with many a long prompt costs little else.
    "flat": {
        "hidden_size": 512,
        "num_hidden_layers": 2,
        "intermediate_size": 1536,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 128,
    },
    # The same with a sliding window in every other layer: what it holds cannot be cut back to a shorter text.
    "window": {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "hidden_size": 512,
        "num_hidden_layers": 2,
        "intermediate_size": 1536,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 128,
        "query_pre_attn_scalar": 128,
        "sliding_window": 512,
        "sliding_window_pattern": 2,
    },
    # The 5m as Gemma 3 has its layers: five with a window, then one that sees all.
    "5m-window": {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "intermediate_size": 768,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
    },
    "90m": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "intermediate_size": 2304,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
    # Next to no weights and 48 KiB of KV per token: a few long prompts fill any budget.
    "kv": {
        "hidden_size": 64,
        "num_hidden_layers": 6,
        "intermediate_size": 128,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 64,
    },
}
TOKENIZER = ROOT / "examples" / "models" / "lmx-demo"  # a byte-level BPE, as the models people run have


CONTEXT = 4096  # tokens, where a bench does not ask for more


def make(folder: Path, shape: str, context: int = CONTEXT) -> Path:
    """Write the model in a process of its own, so that the caller stays without MLX."""
    command = [sys.executable, "-m", "bench.models", str(folder), shape, str(context)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


def _write(folder: Path, shape: str, context: int) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    eos, size = tokenizer.eos_token_id, len(tokenizer)
    config = {
        **BASE,
        **SHAPES[shape],
        "vocab_size": size,
        "eos_token_id": eos,
        "max_position_embeddings": context,
    }
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(7)
    module = import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(config))
    weights = dict(tree_flatten(model.parameters()))
    weights.pop("lm_head.weight", None)  # tied: the table below is it
    table = weights["model.embed_tokens.weight"]
    silent = [
        eos,
        *(i for i in range(size) if "\ufffd" in tokenizer.decode([i]) or not tokenizer.decode([i]).strip()),
    ]
    table[mx.array(silent)] = 0.0
    weights["model.embed_tokens.weight"] = table
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    print(f"{shape}: {sum(w.size for w in weights.values()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    _write(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
