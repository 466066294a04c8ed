"""Load one model from a local folder: weights with progress, tokenizer, adapter, and what it can do.

Every failure becomes a `BadModel` with a code and a sentence that says what to do. What the files say
about batching is not believed: a real forward pass, alone and then in a batch, decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_lm.utils import load_adapters, load_model, load_tokenizer

from appliance.engine import caches, cpu, freed, wiring
from appliance.engine.groups import UNMEASURED, Cost
from appliance.engine.head import Head
from appliance.engine.layers import flat
from appliance.engine.pricing import FREE, Price
from appliance.engine.quantized import CannotQuantize
from appliance.engine.reading import is_memory as is_memory
from appliance.engine.reading import make_real, out_of_memory
from appliance.engine.template import Template
from appliance.engine.weights import BadModel
from appliance.wire import Load

CACHE_LIMIT = 2**30  # bytes of freed buffers MLX may keep until it is configured; see Configure.buffer_cache
CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "model_max_length",
)
ENCODERS = ("bert", "camembert", "distilbert", "nomic_bert", "roberta", "xlm-roberta")
UNSTATED_CONTEXT = 4096  # tokens, for a config that names no limit


@dataclass(frozen=True)
class Model:
    """A loaded model, ready to run."""

    net: Any
    template: Template
    config: dict[str, Any] = field(repr=False)
    model_type: str
    context_max: int
    vocabulary: int  # token ids are below this
    weights_bytes: int
    batch_why: str | None  # None: its rows can be batched
    kv_bits: int | None = None  # 4 | 8: keys and values quantised; see caches.make
    price: Price = FREE  # known after warm-up
    cost: Cost = UNMEASURED  # the same
    head: Head | None = None  # the same; None: no logits of the last token alone

    @property
    def tokenizer(self) -> Any:
        """mlx-lm's TokenizerWrapper."""
        return self.template.tokenizer

    @property
    def batchable(self) -> bool:
        return self.batch_why is None

    @property
    def end_tokens(self) -> frozenset[int]:
        return frozenset(self.tokenizer.eos_token_ids)


def load(order: Load, config: dict[str, Any], progress: Callable[[int, int], None]) -> Model:
    """Read everything `order` names, after `weights.check`, whose result `config` is.

    `progress(done, total)` counts bytes of weights. Raises BadModel.
    """
    folder = Path(order.path)
    wiring.suppress()
    cpu.install()
    freed.keep(CACHE_LIMIT)
    try:
        net, config = load_model(folder, lazy=True, trust_remote_code=order.trust_remote_code)
    except MemoryError as error:
        raise out_of_memory(error) from error
    except Exception as error:  # mlx-lm raises whatever the model's code does
        raise explain(error, config) from error
    if order.adapter is not None:
        net = adapt(net, Path(order.adapter))
    weights_bytes = make_real(net, progress)
    if order.kv_bits is not None and not caches.any_quantized(caches.make(net, order.kv_bits)):
        raise no_kv_bits(order.kv_bits, "none of its caches can be quantised, so it would save nothing")
    tokenizer = read_tokenizer(folder, config, order)
    return Model(
        net=net,
        template=read_template(tokenizer, order),
        config=config,
        model_type=str(config["model_type"]),
        context_max=context_of(config),
        vocabulary=vocabulary_of(config, tokenizer),
        weights_bytes=weights_bytes,
        batch_why=why_not_batchable(net, order.kv_bits),
        kv_bits=order.kv_bits,
    )


def explain(error: Exception, config: dict[str, Any]) -> BadModel:
    """A failure inside mlx-lm, in words a user can act on."""
    text = f"{type(error).__name__}: {error}"
    if "not supported" in str(error) and "Model type" in str(error):
        own = "auto_map" in config
        hint = " (the code it brings for PyTorch cannot run here, trusted or not)" if own else ""
        if config["model_type"] in ENCODERS:
            hint = "; it computes vectors or scores: set `role: embedding` or `role: rerank` for it"
        return BadModel(
            "unsupported_model", f"mlx-lm does not know the model type {config['model_type']!r}{hint}"
        )
    if is_memory(error):
        return out_of_memory(error)
    if any(word in str(error) for word in ("parameters", "Expected shape", "Missing", "shape")):
        return BadModel("corrupt_weights", f"the weights do not fit config.json: {error}")
    if "safetensors" in str(error):
        return BadModel("corrupt_weights", f"the weights cannot be read: {error}")
    if isinstance(error, (KeyError, TypeError, AttributeError, ZeroDivisionError)):
        return BadModel("unsupported_model", f"config.json does not describe a whole model: {text}")
    return BadModel("failed", f"the model could not be built: {text}")


def explain_run(error: Exception, kv_bits: int | None = None) -> BadModel:
    """A failure of the first forward pass. kv_bits: what it is to blame on; None: the model itself."""
    if is_memory(error):
        return out_of_memory(error)
    if kv_bits is not None:
        why = str(error)
        if not isinstance(error, CannotQuantize):
            why = f"its attention cannot read a quantised cache: {why}"
        return no_kv_bits(kv_bits, why)
    return BadModel(
        "unsupported_model", f"the model fails on its first tokens: {type(error).__name__}: {error}"
    )


def no_kv_bits(kv_bits: int, why: str) -> BadModel:
    return BadModel(
        "unsupported_model", f"this model does not run with kv_bits: {kv_bits}; remove `kv_bits`: {why}"
    )


def adapt(net: Any, adapter: Path) -> Any:
    """Put a LoRA adapter in mlx-lm's format over the model."""
    try:
        adapted = load_adapters(net, str(adapter))
    except Exception as error:  # any failure here is the adapter's
        raise BadModel(
            "bad_adapter", f"the adapter {adapter} does not fit: {type(error).__name__}: {error}"
        ) from error
    adapted.eval()
    return adapted


def read_tokenizer(folder: Path, config: dict[str, Any], order: Load) -> Any:
    more: dict[str, Any] = {"trust_remote_code": order.trust_remote_code}
    if order.chat_template is not None:  # in place of the model's file, and of mlx-lm's own function for it
        more |= {"chat_template": order.chat_template, "chat_template_type": None}
    try:
        tokenizer = load_tokenizer(folder, more, eos_token_ids=config.get("eos_token_id"))
        works = bool(tokenizer.decode(tokenizer.encode("hello", add_special_tokens=False)))
    except Exception as error:  # transformers raises many kinds for one fault
        if "trust_remote_code" in str(error):
            raise BadModel(
                "unsupported_model",
                "this model's tokenizer brings its own code; "
                "set `trust_remote_code: true` for it if you trust that code",
            ) from error
        raise BadModel(
            "bad_tokenizer", f"no usable tokenizer in {folder}: {type(error).__name__}: {error}"
        ) from error
    if not works:  # transformers makes an empty one where the files are missing
        raise BadModel("bad_tokenizer", f"no usable tokenizer in {folder}: its vocabulary is empty")
    return tokenizer


def read_template(tokenizer: Any, order: Load) -> Template:
    """Raises BadModel where the operator's is none. The model's own may be: then prompts still work."""
    template = Template(tokenizer)
    if order.chat_template is not None:
        try:
            template.parse()
        except Exception as error:  # whatever the parser makes of it
            raise BadModel("bad_template", f"`template.file` is no chat template: {error}") from error
    return template


def context_of(config: dict[str, Any]) -> int:
    """The model's own limit in tokens."""
    for part in (config, config.get("text_config") or {}):
        for key in CONTEXT_KEYS:
            value = part.get(key)
            if isinstance(value, int) and value > 0:
                return value
    return UNSTATED_CONTEXT


def vocabulary_of(config: dict[str, Any], tokenizer: Any) -> int:
    for part in (config, config.get("text_config") or {}):
        if isinstance(value := part.get("vocab_size"), int):
            return value
    return len(tokenizer)


def why_not_batchable(net: Any, kv_bits: int | None = None) -> str | None:
    """The first of the model's caches that has no batched form, in words; None: all have."""
    for cache in flat(caches.make(net, kv_bits)):
        if not hasattr(cache, "merge"):
            return f"its {type(cache).__name__} has no batched form"
    return None
