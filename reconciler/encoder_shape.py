"""What an encoder needs beside its weights: no cache, and the workspace of one slice.

A slice is what the engine computes at a time (`appliance.engine.encoders.work`): inputs of so many tokens
together, or one input that is longer. Fitted to measurements on the CPU backend, with random float32
models 256 to 768 wide, inputs of 64 to 4,096 tokens: MLX's peak minus weights came to 0.8 to 1.0 times the
sum. Encoders compute scores in parts on the CPU, so those have a bound; a language model that embeds does
not. On Metal attention is fused, and the score matrix never exists. Pure.
"""

from __future__ import annotations

from reconciler.kv_shape import Config, language_part, need, number, own_context, understood
from reconciler.prefill import DEFAULT_BACKEND, Backend

SLICE = {"cpu": 2048, "metal": 8192}  # tokens; the engine's own `MOST_CPU` and `MOST_GPU`
SCORES = 16 * 2**20  # elements that the engine computes at a time on the CPU, its own `SCORES`
CAUSAL = frozenset({"qwen3"})
_BEHIND_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})
_HIDDEN, _INNER, _SCORE_COPIES = 12, 7, 4  # elements per token as multiples of the widths; of the scores


def input_limit(config: Config) -> int | None:
    """The longest input in tokens, if the model's files say one.

    RoBERTa's first position lies behind the padding token's id. `max_seq_length`: what
    sentence_bert_config.json says, put beside the rest where the files are read.
    """
    own = own_context(config)
    if own is not None and config.get("model_type") in _BEHIND_PADDING:
        own -= number(config, "pad_token_id", default=1) + 1
    said = number(config, "max_seq_length")
    return min(own, said) if own and said else own or said or None


@understood
def encoder_workspace(
    config: Config, *, context: int, backend: Backend = DEFAULT_BACKEND, element_bytes: int
) -> int:
    """Bytes for one slice. Raises ForecastError."""
    text = language_part(config)
    width = need(text, "hidden_size")
    inner = number(text, "intermediate_size", "n_inner", "hidden_dim", default=4 * width)
    tokens = max(context, SLICE[backend])
    heads = number(text, "num_attention_heads", "n_head", "n_heads", default=max(1, width // 64))
    scores = 0
    if backend == "cpu":
        scores = tokens * context * heads
        if config.get("model_type") not in CAUSAL:
            scores = min(scores, max(SCORES, heads * context))
    return (tokens * (_HIDDEN * width + _INNER * inner) + _SCORE_COPIES * scores) * element_bytes
