"""Train the demo models of LMX from scratch, on text this repository owns.

    python examples/demo/train.py                          # both models
    python examples/demo/train.py --model lmx-demo         # one of them
    python examples/demo/train.py --model lmx-demo --steps 500
    python examples/demo/train.py --resume                 # go on after an interruption
    python examples/demo/train.py --extend --steps 800     # teach the present models what was added to data/

The result is an ordinary MLX folder in examples/models: Qwen3-shaped weights in float32, a byte-level BPE
tokenizer and a ChatML template. It needs no download and runs on the CPU; check.py then says how much was
learnt. Weights may differ in the last digits between machines, and so may which rare wording is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conversation import END, START, Conversation, Message, assistant, rendered, user
from corpus import JSON_SYSTEM, Corpus
from material import unknown
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

with contextlib.suppress(OSError):
    # MLX's CPU build carries a reference BLAS; where OpenBLAS is found, training is ten times faster with it.
    ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)

import mlx.core as mx
import mlx.optimizers as optim
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.qwen3 import Model, ModelArgs

MODELS = Path(__file__).parents[1] / "models"
END_OF_TEXT = "<|endoftext|>"
TEMPLATE = Path(__file__).parent / "chat_template.jinja"
# Kept as a file: were it made anew from the text each time, one more question would change every token.
TOKENIZER = Path(__file__).parent / "tokenizer.json"
# Qwen's split: single digits, so that sums and counting need no luck with merges; a word keeps its space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VOCABULARY = 1026
# Not special: they must survive decoding with special tokens skipped, for the reader of calls and thoughts.
PLAIN = ("<tool_call>", "</tool_call>", "<think>", "</think>")
TOKENS_PER_BATCH = 2048
IGNORE = -1


@dataclass(frozen=True)
class Recipe:
    """What differs between the two models."""

    title: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    steps: int
    learning_rate: float
    seed: int


RECIPES = {
    "lmx-demo": Recipe("LMX Demo", 128, 4, 4, 2, 384, 4000, 3e-3, 20),
    "lmx-demo-mini": Recipe("LMX Demo Mini", 96, 3, 3, 1, 224, 3500, 4e-3, 21),
}


# --- tokenizer


def make_tokenizer() -> Tokenizer:
    """A byte-level BPE that both models share: any text goes in and comes out unchanged."""
    corpus = Corpus("lmx-demo", seed=0)
    texts = [text for item in corpus.items for text in (*item.questions, item.answer)]
    texts += unknown()[1]
    for _ in range(600):
        texts += [text for text, _ in rendered(corpus.with_tools())]
        texts += [text for text, _ in rendered(corpus.follow_up())]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(name, special=True, normalized=False) for name in (END_OF_TEXT, START, END)]
    plain = [AddedToken(name, special=False, normalized=False) for name in PLAIN]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(plain),
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(plain)
    return tokenizer


class Encoder:
    """Conversations to token ids and the labels to learn; pieces repeat, so they are remembered."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.encode = functools.cache(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)

    def __call__(self, conversation: Conversation) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        for text, learn in rendered(conversation):
            piece = self.encode(text)
            ids += piece
            labels += piece if learn else [IGNORE] * len(piece)
        return ids[:-1], labels[1:]


# --- batches


def padded(rows: list[tuple[list[int], list[int]]]) -> tuple[mx.array, mx.array]:
    """Rows of different length as two arrays; padding on the right changes nothing (the mask is causal)."""
    width = max(len(ids) for ids, _ in rows)
    ids = mx.array([row + [0] * (width - len(row)) for row, _ in rows])
    labels = mx.array([row + [IGNORE] * (width - len(row)) for _, row in rows])
    return ids, labels


def grouped(rows: list[tuple[list[int], list[int]]]) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Batches of rows of like length, so that little time goes into padding."""
    batch: list[tuple[list[int], list[int]]] = []
    for row in sorted(rows, key=lambda row: len(row[0])):
        if batch and (len(batch) + 1) * len(row[0]) > TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def batches(corpus: Corpus, encoder: Encoder) -> Iterator[tuple[mx.array, mx.array]]:
    while True:
        pool = list(grouped([encoder(corpus.draw()) for _ in range(512)]))
        corpus.random.shuffle(pool)
        for rows in pool:
            yield padded(rows)


# --- training


def build(recipe: Recipe) -> Model:
    args = ModelArgs(
        model_type="qwen3",
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        intermediate_size=recipe.intermediate,
        num_attention_heads=recipe.heads,
        rms_norm_eps=1e-6,
        vocab_size=VOCABULARY,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=8192,
        head_dim=32,
        tie_word_embeddings=True,
        rope_theta=10000.0,
    )
    return Model(args)


def extend(model: Model, file: Path) -> None:
    """Load the present weights; tokens that are new since then begin as the average of all others."""
    weights: Any = mx.load(str(file))
    name = "model.embed_tokens.weight"
    known = weights[name]
    new = mx.broadcast_to(known.mean(axis=0, keepdims=True), (VOCABULARY - len(known), known.shape[1]))
    noise = 0.1 * known.std() * mx.random.normal(new.shape)
    weights[name] = mx.concatenate([known, new + noise])
    model.load_weights(list(weights.items()))


def loss_of(model: Model, ids: mx.array, labels: mx.array) -> mx.array:
    mask = labels != IGNORE
    losses = nn.losses.cross_entropy(model(ids), mx.maximum(labels, 0))
    loss: mx.array = (losses * mask).sum() / mask.sum()
    return loss


def missed(model: Model, corpus: Corpus, encoder: Encoder) -> dict[int, int]:
    """For each item, how many of its wordings would not get the exact answer from greedy decoding.

    Beside the wordings, once with a thought before the answer, and once as JSON.
    """
    rows: list[tuple[list[int], list[int]]] = []
    owners: dict[int, list[int]] = {}
    for number, item in enumerate(corpus.items):
        asked = [Conversation((user(question), assistant(item.answer))) for question in item.questions]
        asked.append(corpus.thinking(replace(asked[0], thought=item.thought), "on"))
        if corpus.json_patterns and item in corpus.short:
            system = {"role": "system", "content": JSON_SYSTEM[0]}
            asked.append(Conversation((system, user(item.questions[0]), assistant(item.data))))
        for conversation in asked:
            row = encoder(conversation)
            rows.append(row)
            owners.setdefault(id(row), []).append(number)
    wrong = dict.fromkeys(range(len(corpus.items)), 0)
    for batch in grouped(rows):
        ids, labels = padded(batch)
        right = ((model(ids).argmax(axis=-1) == labels) | (labels == IGNORE)).all(axis=1)
        for row, ok in zip(batch, right.tolist(), strict=True):
            if not ok:
                for number in owners[id(row)]:
                    wrong[number] += 1
    return wrong


def ask_more(corpus: Corpus, wrong: dict[int, int]) -> None:
    """Draw what is still missed more often: the last few answers cost most of the time otherwise."""
    corpus.weights = [
        corpus.base_weight(item) * (1 + 4 * min(1.0, wrong[i] / len(item.questions) * 2))
        for i, item in enumerate(corpus.items)
    ]


def train(name: str, options: argparse.Namespace, tokenizer: Tokenizer) -> Model:
    recipe, scratch = RECIPES[name], options.scratch / name
    steps: int = options.steps or recipe.steps
    peak = recipe.learning_rate
    random.seed(recipe.seed)
    mx.random.seed(recipe.seed)
    model = build(recipe)
    if options.extend:
        # Half the rate: as fast as forgets little of what is known.
        extend(model, MODELS / name / "model.safetensors")
        peak /= 2
    mx.eval(model.parameters())
    print(f"{name}: {parameters(model):,} parameters, {steps} steps", flush=True)
    warmup = min(100, steps // 10 + 1)
    schedule = optim.join_schedules(
        [
            optim.linear_schedule(1e-5, peak, warmup),
            optim.cosine_decay(peak, steps - warmup, peak / 50),
        ],
        [warmup],
    )
    optimizer = optim.AdamW(schedule, betas=[0.9, 0.98], weight_decay=0.01)
    done = load_checkpoint(scratch, model, optimizer) if options.resume else 0
    corpus, encoder = Corpus(name, recipe.seed + done + 1000 * options.extend), Encoder(tokenizer)
    step_of = nn.value_and_grad(model, loss_of)
    if options.extend or done:
        ask_more(corpus, missed(model, corpus, encoder))
    begun, total = time.monotonic(), 0.0
    every = max(50, min(250, steps // 8))
    for step, (ids, labels) in zip(range(done + 1, steps + 1), batches(corpus, encoder), strict=False):
        loss, gradients = step_of(model, ids, labels)
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        optimizer.update(model, gradients)
        mx.eval(loss, model.parameters(), optimizer.state)
        total += loss.item()
        if step % every == 0 or step == steps:
            wrong = missed(model, corpus, encoder)
            ask_more(corpus, wrong)
            asked = sum(len(item.questions) for item in corpus.items)
            pace = (time.monotonic() - begun) / (step - done)
            misses = f"missed {sum(wrong.values())}/{asked}"
            print(f"step {step}  loss {total / every:.4f}  {misses}  {pace:.2f} s/step", flush=True)
            total = 0.0
            save_checkpoint(scratch, model, optimizer, step)
    return model


def save(path: Path, arrays: Any, metadata: dict[str, str]) -> None:
    mx.save_safetensors(str(path), dict(tree_flatten(arrays)), metadata)


def save_checkpoint(scratch: Path, model: Model, optimizer: Any, step: int) -> None:
    scratch.mkdir(parents=True, exist_ok=True)
    save(scratch / "model.safetensors", model.parameters(), {})
    save(scratch / "optimizer.safetensors", optimizer.state, {"step": str(step)})


def load_checkpoint(scratch: Path, model: Model, optimizer: Any) -> int:
    """Take up an interrupted run; returns the step it had reached."""
    if not (scratch / "optimizer.safetensors").exists():
        return 0
    model.load_weights(str(scratch / "model.safetensors"))
    loaded: Any = mx.load(str(scratch / "optimizer.safetensors"), return_metadata=True)
    arrays, metadata = loaded
    optimizer.state = tree_unflatten(list(arrays.items()))
    return int(metadata["step"])


def parameters(model: Model) -> int:
    return sum(array.size for _, array in tree_flatten(model.parameters()))


# --- the folder


def config(recipe: Recipe, tokenizer: Tokenizer) -> Message:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "dtype": "float32",
        "eos_token_id": tokenizer.token_to_id(END),
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.intermediate,
        "max_position_embeddings": 8192,
        "model_type": "qwen3",
        "num_attention_heads": recipe.heads,
        "num_hidden_layers": recipe.layers,
        "num_key_value_heads": recipe.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }


def write_json(path: Path, value: Message) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_folder(name: str, model: Model, tokenizer: Tokenizer) -> None:
    """Write beside the place and rename: nobody ever loads half a model. The model card is kept."""
    recipe, target = RECIPES[name], MODELS / name
    MODELS.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=MODELS))
    folder.chmod(0o755)
    save(folder / "model.safetensors", model.parameters(), {"format": "mlx"})
    write_json(folder / "config.json", config(recipe, tokenizer))
    ends = [tokenizer.token_to_id(END), tokenizer.token_to_id(END_OF_TEXT)]
    write_json(
        folder / "generation_config.json",
        {"do_sample": False, "eos_token_id": ends, "pad_token_id": ends[1]},
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "eos_token": END,
            "model_max_length": 8192,
            "pad_token": END_OF_TEXT,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    shutil.copy(TEMPLATE, folder)
    if (target / "README.md").exists():
        shutil.copy(target / "README.md", folder)
    old = target.with_name(f".{name}-old-{os.getpid()}")
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    size = sum(file.stat().st_size for file in target.iterdir())
    print(f"wrote {target.name}: {size:,} bytes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo models of LMX.")
    parser.add_argument("--model", choices=sorted(RECIPES), help="only this one (default: both)")
    parser.add_argument("--steps", type=int, help="training steps (default: the model's own)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--extend", action="store_true", help="begin with the weights in examples/models")
    parser.add_argument("--new-tokenizer", action="store_true", help="make tokenizer.json anew, then train")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "lmx-demo-training")
    parser.add_argument("--write-only", action="store_true", help="write the folder from the last checkpoint")
    options = parser.parse_args()
    if options.new_tokenizer or not TOKENIZER.exists():
        make_tokenizer().save(str(TOKENIZER), pretty=False)
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"the tokenizer has {tokenizer.get_vocab_size()} entries instead of {VOCABULARY}")
    for name in [options.model] if options.model else sorted(RECIPES):
        if options.write_only:
            model = build(RECIPES[name])
            model.load_weights(str(options.scratch / name / "model.safetensors"))
        else:
            model = train(name, options, tokenizer)
        write_folder(name, model, tokenizer)


if __name__ == "__main__":
    main()
