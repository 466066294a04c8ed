"""Load an encoder from a local folder: what it is, its weights, its tokenizer, how it pools or scores.

Every failure becomes a `BadModel` with a code and a sentence that says what to do. A dimension that
config.json does not say, a weight that is missing, one that has no place: none is guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten

from appliance.engine.encoders import bert, names, pooling, tokens
from appliance.engine.encoders.heads import Score, YesOrNo
from appliance.engine.encoders.kernels import kernels, on_cpu
from appliance.engine.encoders.tokens import Item, Tokens
from appliance.engine.prompt import Refusal
from appliance.engine.reading import is_memory, make_real, out_of_memory
from appliance.engine.weights import BadModel
from appliance.wire import Load

Weights = dict[str, mx.array]
Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
Role = Literal["embedding", "rerank"]


@dataclass(frozen=True)
class Family:
    shape: Callable[[bert.Config], bert.Shape]
    patterns: tuple[tuple[str, str], ...]
    head: Callable[[mx.array], mx.array] = mx.tanh  # in its classification head
    first: bool = False  # positions begin behind the padding token's id
    typed: bool = True  # it has token types


FAMILIES: dict[str, Family] = {
    "bert": Family(bert.bert, names.BERT),
    "roberta": Family(bert.bert, names.BERT, first=True),
    "xlm-roberta": Family(bert.bert, names.BERT, first=True),
    "camembert": Family(bert.bert, names.BERT, first=True),
    "distilbert": Family(bert.bert, names.DISTILBERT, head=nn.relu, typed=False),
    "nomic_bert": Family(bert.nomic, names.NOMIC),
}
CAUSAL = "qwen3"
SUPPORTED = {
    "embedding": "bert, camembert, distilbert, nomic_bert, roberta, xlm-roberta, qwen3 (Qwen3-Embedding)",
    "rerank": "bert, camembert, distilbert, roberta, xlm-roberta with a classification head of one label, "
    "qwen3 (Qwen3-Reranker)",
}
# What a config.json may ask for and these networks do not do: key -> the values that ask for nothing.
NOTHING: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": (None, "absolute"),
    "is_decoder": (None, False),
    "add_cross_attention": (None, False),
    "prenorm": (None, False),
    "parallel_block": (None, False),
    "use_rms_norm": (None, False),
    "causal": (None, False),
    "rotary_emb_scale_base": (None,),
    "num_experts": (None, 0),
    "moe_every_n_layers": (None, 0),
    "sinusoidal_pos_embds": (None, False),
}


@dataclass(frozen=True)
class Model:
    """A loaded encoder. run: padded tokens to rows x `width` numbers. dimensions: of an embedding."""

    role: Role
    model_type: str
    context_max: int
    weights_bytes: int
    width: int
    net: Callable[[mx.array, mx.array | None, list[int]], mx.array] = field(repr=False)
    head: Callable[[mx.array, list[int]], mx.array] = field(repr=False)
    tokens: Tokens = field(repr=False)
    judge: Any = field(default=None, repr=False)  # causal.Judge, of a language model that ranks

    def run(self, items: Sequence[Item]) -> Floats:
        """rows x width, in the order of the items; not checked for NaN. MLX raises what it will."""
        lengths = [len(item) for item in items]
        ids = np.zeros((len(items), max(lengths)), dtype=np.int32)
        types = None if all(item.types is None for item in items) else np.zeros_like(ids)
        for row, item in enumerate(items):
            ids[row, : len(item)] = item.ids
            if types is not None and item.types is not None:
                types[row, : len(item)] = item.types
        hidden = self.net(mx.array(ids), None if types is None else mx.array(types), lengths)
        found = self.head(hidden, lengths).astype(mx.float32)
        if self.role == "embedding":
            found = unit(found)
        values: Floats = np.array(found)
        return values

    def pairs(
        self, query: str, documents: Sequence[str], instruction: str | None, limit: int, *, truncate: bool
    ) -> list[Item]:
        """Raises Refusal."""
        if self.judge is not None:
            found: list[Item] = self.judge.pairs(query, documents, instruction, limit, truncate=truncate)
            return found
        if instruction is not None:
            raise Refusal(
                "not_supported", "this model takes no instruction; leave it out", param="instruction"
            )
        return self.tokens.pairs(query, documents, limit, truncate=truncate)


def unit(vectors: mx.array) -> mx.array:
    return vectors / mx.linalg.norm(vectors, axis=-1, keepdims=True)


def load(order: Load, config: dict[str, Any], progress: Progress) -> Model:
    """Read everything `order` names, after `weights.check`, whose result `config` is. Raises BadModel."""
    kind = str(config["model_type"])
    asked: Role = "embedding" if order.role == "embedding" else "rerank"
    try:
        if kind == CAUSAL:
            return _causal(order, asked, config, progress)
        if kind in FAMILIES:
            return _encoder(order, asked, config, progress)
    except BadModel:
        raise
    except MemoryError as error:
        raise out_of_memory(error) from error
    except Exception as error:  # MLX and numpy raise many kinds for files that do not fit together
        raise _explain(error) from error
    raise _unsupported(f"an encoder of the type {kind!r} is not supported; supported: {SUPPORTED[asked]}")


def _explain(error: Exception) -> BadModel:
    if is_memory(error):
        return out_of_memory(error)
    if isinstance(error, KeyError | TypeError | ZeroDivisionError):
        text = error.args[0] if isinstance(error, KeyError) else error
        return BadModel("unsupported_model", f"config.json does not describe a whole model: {text}")
    return BadModel("corrupt_weights", f"the weights do not fit config.json: {error}")


def _encoder(order: Load, role: Role, config: dict[str, Any], progress: Progress) -> Model:
    folder, kind = Path(order.path), str(config["model_type"])
    family = FAMILIES[kind]
    for key, nothings in NOTHING.items():
        if config.get(key) not in nothings:
            raise _unsupported(f"config.json asks for {key}: {config[key]}, which is not supported")
    shape = _shape(family, config)
    found, unknown = names.rename(read(folder), family.patterns, lambda parts: mx.concatenate(parts))
    if unknown:
        raise _unsupported(
            f"{folder} carries weights that a {kind} encoder has no place for, such as {min(unknown)}"
        )
    ranks = role == "rerank"
    if not ranks:
        found = {name: value for name, value in found.items() if not name.startswith("head.")}
    elif "head.score.weight" not in found or "head.dense.weight" not in found:
        raise _unsupported(
            f"{folder} has no classification head, so it cannot rank; "
            "if it is an embedding model, set role: embedding"
        )
    biased = {name.split(".")[2] for name in found if name.startswith("layers.") and name.endswith(".bias")}
    net = bert.Encoder(shape, biased)
    if ranks:
        net.head = Score(shape.width, family.head)
    if ranks and found["head.score.weight"].shape[0] != 1:
        raise _unsupported(
            f"{folder} tells {found['head.score.weight'].shape[0]} labels apart; a reranker has one score"
        )
    size = fill(net, found, config, progress)
    limit = tokens.longest(
        folder, shape.longest or config.get("n_positions") or config.get("max_position_embeddings")
    )
    if config.get("rotary_scaling_factor") not in (None, 1, 1.0):  # stretched positions are not built
        limit = min(limit, int(config.get("max_trained_positions") or limit))
    pooled = None if ranks else pooling.read(folder, kind, shape.width)
    return Model(
        role=role,
        model_type=kind,
        context_max=limit,
        weights_bytes=size,
        width=1 if pooled is None else pooled.dimensions(shape.width),
        net=net,
        head=net.head if pooled is None else pooled,
        tokens=tokens.read(folder, shape.vocabulary, prompt="" if ranks else pooling.default_prompt(folder)),
    )


def _shape(family: Family, config: dict[str, Any]) -> bert.Shape:
    said = {**config, "type_vocab_size": config.get("type_vocab_size", 2) if family.typed else 0}
    found = bert.Config(said)
    shape = family.shape(found)
    if family.first:
        shape = replace(shape, first=found.whole("pad_token_id", default=1) + 1)
    if shape.activation not in kernels().activations:
        raise _unsupported(
            f"config.json asks for the activation {shape.activation!r}, which is not supported"
        )
    if not shape.heads or shape.width % shape.heads:
        raise _unsupported(f"config.json says {shape.heads} heads for a width of {shape.width}")
    return shape


def _causal(order: Load, role: Role, config: dict[str, Any], progress: Progress) -> Model:
    from appliance.engine import wiring
    from appliance.engine.encoders import causal  # mlx-lm comes in here, which takes a second

    wiring.suppress()
    folder = Path(order.path)
    given = {name.removeprefix("model."): value for name, value in read(folder).items()}
    head = {name: given.pop(name) for name in list(given) if name.startswith(("lm_head.", "score."))}
    if "score.weight" in head:
        raise _unsupported(
            f"{folder} is a Qwen3 with a classification head, which is not supported; use Qwen3-Reranker "
            "in its own form"
        )
    net = causal.build(config)
    vocabulary = int(config["vocab_size"])
    size = fill(net, given, config, progress)
    limit = tokens.longest(folder, config.get("max_position_embeddings"))
    width = int(config["hidden_size"])
    if role == "embedding":
        pooled = pooling.read(folder, CAUSAL, width)
        read_by = tokens.read(folder, vocabulary, prompt=pooling.default_prompt(folder))
        return Model(role, CAUSAL, limit, size, pooled.dimensions(width), causal.Causal(net), pooled, read_by)
    read_by = tokens.read(folder, vocabulary)
    verdict = [read_by.id_of("no"), read_by.id_of("yes")]
    if None in verdict:
        raise BadModel("bad_tokenizer", f"the tokenizer of {folder} has no tokens for yes and no")
    at = mx.array(verdict)
    if "lm_head.weight" in head and not config.get("tie_word_embeddings"):
        rows = _rows(head, at, config)
    else:
        rows = net.embed_tokens(at)
    mx.eval(rows)
    judge = causal.Judge(read_by)
    return Model(role, CAUSAL, limit, size, 1, causal.Causal(net), YesOrNo(rows), read_by, judge)


def _rows(head: Weights, at: mx.array, config: Mapping[str, Any]) -> mx.array:
    parts = {name.removeprefix("lm_head."): value[at] for name, value in head.items()}
    if "scales" not in parts:
        return parts["weight"]
    how = config["quantization"]
    found: mx.array = mx.dequantize(
        parts["weight"], parts["scales"], parts.get("biases"), how["group_size"], how["bits"]
    )
    return found


def read(folder: Path) -> Weights:
    """All weights of a folder, not yet read from disk."""
    found: Weights = {}
    for file in sorted(folder.glob("model*.safetensors")):
        held = mx.load(str(file))
        assert isinstance(held, dict)
        found.update(held)
    return found


def fill(net: nn.Module, found: Weights, config: Mapping[str, Any], progress: Progress) -> int:
    """Put weights in their places, and read them; their size in bytes. Raises BadModel.

    On the CPU backend all that is not quantised becomes float32: half precision is computed there element
    by element, eleven times slower.
    """
    how = config.get("quantization")
    if isinstance(how, Mapping):
        nn.quantize(
            net,
            group_size=int(how["group_size"]),
            bits=int(how["bits"]),
            class_predicate=lambda path, layer: f"{path}.scales" in found and hasattr(layer, "to_quantized"),
        )
    if on_cpu():
        found = {
            name: value.astype(mx.float32) if mx.issubdtype(value.dtype, mx.floating) else value
            for name, value in found.items()
        }
    wanted = dict(tree_flatten(net.parameters()))
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise BadModel(
            "corrupt_weights",
            f"{len(missing)} of the weights are missing, first {missing[0]} (by its name here)",
        )
    strange = sorted(found.keys() - wanted.keys())
    if strange:
        raise _unsupported(f"there are weights that have no place, such as {strange[0]} (by its name here)")
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            raise BadModel(
                "corrupt_weights",
                f"{name} has the shape {list(value.shape)}, config.json says {list(wanted[name].shape)}",
            )
    net.load_weights(list(found.items()))
    net.eval()
    return make_real(net, progress)


def _unsupported(message: str) -> BadModel:
    return BadModel("unsupported_model", message)
