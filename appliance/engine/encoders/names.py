"""From the names in a checkpoint to those of `bert.Encoder` and its heads. Pure.

Queries, keys and values of a layer are put on top of each other, which holds for quantised weights too: they
are grouped along their rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")

PREFIXES = ("bert.", "roberta.", "distilbert.", "model.", "encoder_model.")
# (pattern, name here). A part of three is joined into one, in this order.
BERT = (
    (r"embeddings\.word_embeddings\.", "embeddings.word."),
    (r"embeddings\.position_embeddings\.", "embeddings.position."),
    (r"embeddings\.token_type_embeddings\.", "embeddings.type."),
    (r"embeddings\.LayerNorm\.", "embeddings.norm."),
    (r"encoder\.layer\.(\d+)\.attention\.self\.query\.", r"layers.\1.qkv.0."),
    (r"encoder\.layer\.(\d+)\.attention\.self\.key\.", r"layers.\1.qkv.1."),
    (r"encoder\.layer\.(\d+)\.attention\.self\.value\.", r"layers.\1.qkv.2."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"layers.\1.out."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", r"layers.\1.norm1."),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.", r"layers.\1.up."),
    (r"encoder\.layer\.(\d+)\.output\.dense\.", r"layers.\1.down."),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"layers.\1.norm2."),
    (r"pooler\.dense\.", "head.dense."),
    (r"classifier\.dense\.", "head.dense."),
    (r"classifier\.out_proj\.", "head.score."),
    (r"classifier\.(?=weight|bias|scales)", "head.score."),
)
DISTILBERT = (
    *BERT[:4],
    (r"transformer\.layer\.(\d+)\.attention\.q_lin\.", r"layers.\1.qkv.0."),
    (r"transformer\.layer\.(\d+)\.attention\.k_lin\.", r"layers.\1.qkv.1."),
    (r"transformer\.layer\.(\d+)\.attention\.v_lin\.", r"layers.\1.qkv.2."),
    (r"transformer\.layer\.(\d+)\.attention\.out_lin\.", r"layers.\1.out."),
    (r"transformer\.layer\.(\d+)\.sa_layer_norm\.", r"layers.\1.norm1."),
    (r"transformer\.layer\.(\d+)\.ffn\.lin1\.", r"layers.\1.up."),
    (r"transformer\.layer\.(\d+)\.ffn\.lin2\.", r"layers.\1.down."),
    (r"transformer\.layer\.(\d+)\.output_layer_norm\.", r"layers.\1.norm2."),
    (r"pre_classifier\.", "head.dense."),
    (r"classifier\.(?=weight|bias|scales)", "head.score."),
)
NOMIC = (
    *BERT[:3],
    (r"emb_ln\.", "embeddings.norm."),
    (r"encoder\.layers\.(\d+)\.attn\.Wqkv\.", r"layers.\1.qkv."),
    (r"encoder\.layers\.(\d+)\.attn\.out_proj\.", r"layers.\1.out."),
    (r"encoder\.layers\.(\d+)\.norm1\.", r"layers.\1.norm1."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc11\.", r"layers.\1.up."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc12\.", r"layers.\1.gate."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.", r"layers.\1.down."),
    (r"encoder\.layers\.(\d+)\.norm2\.", r"layers.\1.norm2."),
)
# What a checkpoint may carry and an encoder does not use: heads of other tasks, and tables of numbers.
UNUSED = re.compile(
    r"(?:cls|lm_head|mlm_head|qa_outputs|vocab_\w+|rotary_emb)\."
    r"|.*(?:position_ids|token_type_ids|rotary_emb\.inv_freq)$"
)
_OLD = ((".gamma", ".weight"), (".beta", ".bias"))  # how TensorFlow wrote layer normalisation
_THIRD = re.compile(r"^(layers\.\d+\.qkv)\.([012])\.(\w+)$")


def rename(
    weights: Mapping[str, T], patterns: tuple[tuple[str, str], ...], join: Callable[[list[T]], T]
) -> tuple[dict[str, T], list[str]]:
    """Weights by their names here, and the names that mean nothing here. join: one upon the other."""
    found: dict[str, T] = {}
    thirds: dict[tuple[str, str], dict[int, T]] = {}
    unknown = []
    for given, value in weights.items():
        name = _renamed(_plain(given), patterns)
        if name is None:
            if not UNUSED.match(_plain(given)):
                unknown.append(given)
        elif third := _THIRD.match(name):
            thirds.setdefault((third[1], third[3]), {})[int(third[2])] = value
        else:
            found[name] = value
    for (layer, kind), parts in thirds.items():
        if len(parts) == 3:  # else it is missed by name when the network is filled
            found[f"{layer}.{kind}"] = join([parts[0], parts[1], parts[2]])
    return found, unknown


def _plain(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    for old, new in _OLD:
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def _renamed(name: str, patterns: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, new in patterns:
        changed, count = re.subn(rf"^{pattern}", new, name)
        if count:
            return changed
    return None
