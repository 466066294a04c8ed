"""What one row's KV cache looks like for an architecture, read from its config.json.

The shapes follow what mlx-lm allocates (each architecture's `make_cache`), not what a paper says. An
architecture that is not known here is priced as full attention in every layer, which is never too
little. Pure. `tests/reconciler/forecast` holds these shapes against the real caches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

from reconciler.observed import ModelFiles

Config = Mapping[str, Any]
P = ParamSpec("P")
R = TypeVar("R")

KV_STEP = 256  # mlx-lm's KVCache grows by this many tokens
# Tokens. With `prefill_chunk: auto` a prompt alone is computed 512 at a time, which halves the wait of a
# short request behind a long one at < 1 % of throughput; a rest of up to a quarter goes with the last ones.
PREFILL_CHUNK = 640
MOST_LAYERS = 10_000  # more is not a model, and would be a list of that length here

# Where mlx-lm supplies a value that published config.json files leave out.
_DEFAULTS: dict[str, Config] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "max_position_embeddings": 32768,
    },
    "gpt_oss": {"sliding_window": 128, "head_dim": 64},
}
NAMES: dict[str, tuple[str, ...]] = {
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim", "model_dim"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_hidden_size", "d_inner"),
    "max_position_embeddings": (
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "seq_length",
        "n_ctx",
        "max_sequence_length",
    ),
}
# Encoders run a text in one go and keep no cache.
_ENCODERS = frozenset(["bert", "distilbert", "modernbert", "mpnet", "nomic_bert", "roberta", "xlm-roberta"])
# Architectures whose `make_cache` honours "sliding_attention" in layer_types. All others (gemma2,
# mistral, phi3, qwen2) keep every token, whatever their config says of windows.
_LAYER_TYPES = frozenset(
    [
        "afmoe",
        "exaone_moe",
        "gemma3n",
        "gemma3n_text",
        "gemma4",
        "gemma4_text",
        "gpt_oss",
        "laguna",
        "llama",
        "mellum",
        "ministral3",
        "mistral3",
        "muse_glimmer",
        "muse_spark",
        "olmo3",
        "spark2_5",
        "step3p5",
    ]
)
QUANTIZED_GROUPS = (
    64,
    32,
)  # elements for each scale and bias: the engine takes the first that divides a head
# Attention that mlx-lm computes in single operations on whole keys, and such with sinks: neither reads a
# quantised cache.
WRITTEN_OUT = frozenset({"gemma2"})
SINKS = frozenset({"gpt_oss", "mimo_v2_flash"})
# MLA whose mlx-lm code caches the expanded keys and values instead of the compressed latent.
_MLA_EXPANDED = frozenset({"deepseek_v2", "minicpm3", "youtu_llm"})


class ForecastError(ValueError):
    """The files do not say enough to compute with. The message names what is missing."""


def understood(compute: Callable[P, R]) -> Callable[P, R]:
    """Whatever nonsense a config.json holds, computing with it raises ForecastError and nothing else."""

    @wraps(compute)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return compute(*args, **kwargs)
        except ForecastError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ForecastError(f"config.json holds values that make no sense together: {error}") from error

    return guarded


@dataclass(frozen=True)
class CacheGroup:
    """Layers whose caches have one shape. elements: of keys and values, per layer and token."""

    layers: int
    elements: int
    window: int | None = None  # rotating: never more than this many tokens


@dataclass(frozen=True)
class KvShape:
    """What one row's cache costs. state: bytes per row that do not grow (linear attention, convolutions)."""

    groups: tuple[CacheGroup, ...]
    state: int = 0
    dtype_bytes: int = 2
    kv_bits: int | None = None
    quantized_group: int = 64  # elements for each scale and bias

    @property
    def per_token(self) -> int:
        """Bytes that each further token costs once every window is full."""
        return sum(self._bytes(g) for g in self.groups if g.window is None)

    @property
    def layer_per_token(self) -> int:
        """The same of the largest single layer."""
        return max((self._bytes(g) // g.layers for g in self.groups), default=0)

    def row(self, tokens: int, prefill_chunk: int = PREFILL_CHUNK) -> int:
        """Bytes of one row that holds `tokens`. A rotating cache in prefill: window and a chunk."""
        total = self.state
        for group in self.groups:
            held = round_up(tokens)
            if group.window is not None:
                held = min(held, group.window + prefill_chunk - 1)
            total += held * self._bytes(group)
        return total

    def _bytes(self, group: CacheGroup) -> int:
        """Bytes per token of all layers of the group. Only what keeps every token is quantised."""
        elements = group.layers * group.elements
        if self.kv_bits is None or group.window is not None:
            return elements * self.dtype_bytes
        scales_and_biases = 2 * self.dtype_bytes * elements // self.quantized_group
        return elements * self.kv_bits // 8 + scales_and_biases


def round_up(tokens: int, step: int = KV_STEP) -> int:
    return -(-tokens // step) * step


def dtype_bytes(config: Config, files: ModelFiles | None = None) -> int:
    """Bytes of one activation, hence of one cache element.

    Weights that are not quantized speak for themselves: the files' bytes per parameter. Else the
    config's dtype; half precision where it says none.
    """
    quantized = bool(config.get("quantization") or config.get("quantization_config"))
    if files is not None and not quantized and files.parameters and files.weights_bytes:
        return 4 if files.weights_bytes / files.parameters > 3 else 2
    text = language_part(config)
    named = str(text.get("torch_dtype") or text.get("dtype") or "")
    return 4 if named.endswith("float32") else 2


@understood
def kv_bytes_per_token(
    config: Config, *, kv_bits: int | None = None, element_bytes: int | None = None
) -> KvShape:
    """The shape of one row's cache. Raises ForecastError where the config lacks what it needs.

    And where `kv_bits` asks for what this architecture cannot do: it would fail when it is loaded.
    """
    text = language_part(config)
    size = element_bytes or dtype_bytes(config)
    if text.get("model_type") in _ENCODERS:
        return KvShape((), 0, size)
    groups: dict[tuple[int, int | None], int] = {}
    state = 0
    elements = _elements(text)
    for kind in layers(text):
        if isinstance(kind, int) or kind in ("full", "both"):
            window = kind if isinstance(kind, int) else None
            groups[elements, window] = groups.get((elements, window), 0) + 1
        if kind in ("state", "both"):
            state += _state_bytes(text, size)
    if elements < 0 or state < 0:
        raise ForecastError("config.json holds sizes below zero")
    shaped = tuple(CacheGroup(count, per, window) for (per, window), count in groups.items())
    if kv_bits is None:
        return KvShape(shaped, state, size)
    if all(group.window is not None for group in shaped):
        raise _no_kv_bits(kv_bits, "none of its caches grows with the text, so it would save nothing")
    return KvShape(shaped, state, size, kv_bits, _quantized_group(text, kv_bits))


def _quantized_group(text: Config, kv_bits: int) -> int:
    kind = text.get("model_type")
    if kind in SINKS:
        raise _no_kv_bits(kv_bits, "attention with sinks cannot read a quantised cache")
    if kind in WRITTEN_OUT or (number(text, "kv_lora_rank") and kind not in _MLA_EXPANDED):
        raise _no_kv_bits(kv_bits, f"the attention of {kind} cannot read a quantised cache")
    heads = head_sizes(text)
    for size in QUANTIZED_GROUPS:
        if all(head % size == 0 for head in heads):
            return size
    sizes = " and ".join(str(head) for head in sorted(set(heads)))
    raise _no_kv_bits(
        kv_bits, f"heads of {sizes} elements cannot be divided into groups of {QUANTIZED_GROUPS[-1]}"
    )


def _no_kv_bits(kv_bits: int, why: str) -> ForecastError:
    return ForecastError(f"this model does not run with kv_bits: {kv_bits}; remove `kv_bits`: {why}")


def own_context(config: Config) -> int | None:
    """The model's own longest context, in tokens, if its config says one."""
    text = language_part(config)
    for name in NAMES["max_position_embeddings"]:
        value = text.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return None


def language_part(config: Config) -> Config:
    """The part of a config that describes the language model, with inherited and default values."""
    for key in ("text_config", "llm_config", "language_config"):
        nested = config.get(key)
        if isinstance(nested, Mapping):
            inherited = {k: v for k, v in config.items() if not isinstance(v, Mapping)}
            kept = {k: v for k, v in nested.items() if v is not None}
            merged = {**inherited, **kept}
            if config.get("model_type") == "gemma3":
                merged["model_type"] = "gemma3_text"
            break
    else:
        merged = dict(config)
    return {**_DEFAULTS.get(str(merged.get("model_type")), {}), **merged}


def need(text: Config, name: str) -> int:
    for alias in NAMES.get(name, (name,)):
        value = text.get(alias)
        if isinstance(value, int) and value > 0:
            return value
    raise ForecastError(f"config.json does not say {name}, so its memory cannot be forecast")


def number(text: Config, *names: str, default: int = 0) -> int:
    """The first of these that is there as a positive number."""
    found = (text.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), default)


def head_dim(text: Config) -> int:
    return number(text, "head_dim") or need(text, "hidden_size") // need(text, "num_attention_heads")


def head_sizes(text: Config) -> tuple[int, int]:
    """Elements of one head's key and value, as they are cached."""
    rope = number(text, "qk_rope_head_dim")
    if number(text, "kv_lora_rank") and rope and text.get("model_type") in _MLA_EXPANDED:
        value = number(text, "v_head_dim", default=head_dim(text))
        return need(text, "qk_nope_head_dim") + rope, value
    return head_dim(text), head_dim(text)


def _elements(text: Config) -> int:
    """Key and value elements per token of one attention layer."""
    rank, rope = number(text, "kv_lora_rank"), number(text, "qk_rope_head_dim")
    if rank and rope:
        if text.get("model_type") in _MLA_EXPANDED:
            return need(text, "num_attention_heads") * sum(head_sizes(text))
        return rank + rope + number(text, "index_head_dim")  # a second cache of keys that select tokens
    per_layer = text.get("num_key_value_heads")
    if isinstance(per_layer, (list, tuple)):  # priced as the largest
        return 2 * max(int(heads) for heads in per_layer) * head_dim(text)
    heads = number(text, "num_key_value_heads", "num_kv_heads", "n_head_kv")
    if not heads:
        heads = 1 if text.get("multi_query") else need(text, "num_attention_heads")
    return 2 * heads * head_dim(text)


Layer = Literal["full", "state", "both", "none"] | int  # int: rotating, that many tokens


def layers(text: Config) -> list[Layer]:
    """What each layer keeps, in order, as the architecture's `make_cache` in mlx-lm decides it."""
    kind = str(text.get("model_type"))
    if kind == "nemotron_h" and isinstance(text.get("hybrid_override_pattern"), str):
        marks: dict[str, Layer] = {"M": "state", "*": "full"}
        return [marks.get(mark, "none") for mark in text["hybrid_override_pattern"]]
    count = need(text, "num_hidden_layers")
    if count > MOST_LAYERS:
        raise ForecastError(f"config.json says num_hidden_layers is {count:,}, which cannot be")
    if kind in ("mamba", "mamba2", "rwkv7"):
        return ["state"] * count
    if kind == "falcon_h1":
        return ["both"] * count
    if kind.startswith(("qwen3_next", "qwen3_5")):
        every = int(text.get("full_attention_interval") or 4)
        return ["full" if (i + 1) % every == 0 else "state" for i in range(count)]
    if kind == "jamba":
        period, offset = need(text, "attn_layer_period"), int(text.get("attn_layer_offset") or 0)
        return ["full" if i % period == offset else "state" for i in range(count)]
    if kind in ("kimi_linear", "kimi_k3"):
        full = set((text.get("linear_attn_config") or {}).get("full_attn_layers") or range(1, count + 1))
        return ["full" if i + 1 in full else "state" for i in range(count)]
    if kind.startswith("lfm2") and isinstance(text.get("full_attn_idxs"), list):
        return ["full" if i in text["full_attn_idxs"] else "state" for i in range(count)]
    own = count - number(text, "num_kv_shared_layers")  # the others read an earlier layer's cache
    return [_windowed(text, kind, i) for i in range(own)]


def _windowed(text: Config, kind: str, index: int) -> Layer:
    window = number(text, "sliding_window")
    pattern = text.get("sliding_window_pattern")
    types = text.get("layer_types")
    if kind in ("gemma3_text", "cohere2") and window and isinstance(pattern, int):
        return "full" if index % pattern == pattern - 1 else window
    if kind == "exaone4" and window and isinstance(pattern, str):
        return window if pattern[index % len(pattern)] == "L" else "full"
    if kind.startswith("llama4"):
        return "full" if (index + 1) % 4 == 0 else number(text, "attention_chunk_size") or "full"
    if kind == "gpt_oss" and types is None and window:
        return "full" if index % 2 else window
    if kind == "olmo3" and types is None and window:
        return "full" if (index + 1) % 4 == 0 else window
    if isinstance(types, list) and index < len(types):
        if types[index] in ("linear_attention", "mamba", "conv", "recurrent"):
            return "state"
        if types[index] == "sliding_attention" and window and kind in _LAYER_TYPES:
            return window
    return "full"


def _state_bytes(text: Config, size: int) -> int:
    """Bytes per row of one layer that keeps a state: a convolution's tail, and a float32 matrix."""

    if number(text, "linear_num_value_heads"):
        keys = number(text, "linear_num_key_heads") * number(text, "linear_key_head_dim")
        values = number(text, "linear_num_value_heads") * number(text, "linear_value_head_dim")
        tail = (number(text, "linear_conv_kernel_dim", default=4) - 1) * (2 * keys + values)
        return tail * size + values * number(text, "linear_key_head_dim") * 4
    if "conv_L_cache" in text:
        return (number(text, "conv_L_cache") - 1) * need(text, "hidden_size") * size
    linear = text.get("linear_attn_config")
    if isinstance(linear, Mapping):
        depth = number(linear, "head_dim", default=128)
        width = number(linear, "num_heads", default=1) * depth
        return 3 * 3 * width * size + width * depth * 4
    space = state_space(text)
    groups = number(text, "mamba_n_groups", "n_groups", default=1)
    kernel = number(text, "mamba_d_conv", "conv_kernel", default=4)
    tail = (kernel - 1) * (space.inner + 2 * groups * space.states)
    return tail * size + space.inner * space.states * 4


@dataclass(frozen=True)
class StateSpace:
    """A Mamba layer. heads: 0 in the first generation. inner: channels; states: numbers per channel."""

    heads: int
    inner: int
    states: int


def state_space(text: Config) -> StateSpace:
    heads = number(text, "mamba_n_heads", "mamba_num_heads")
    width = number(text, "mamba_d_head", "mamba_head_dim")
    if text.get("model_type") == "mamba2":
        heads, width = number(text, "num_heads"), number(text, "head_dim")
    inner = heads * width or number(text, "mamba_d_ssm")
    if text.get("model_type") == "mamba":
        inner = number(text, "intermediate_size")
    inner = inner or number(text, "mamba_expand", "expand", default=2) * need(text, "hidden_size")
    return StateSpace(
        heads, inner, number(text, "mamba_d_state", "ssm_state_size", "state_size", default=128)
    )
