"""Perplexity of the demo model on the answers it was taught, with each `kv_bits`, as JSON on stdout.

What it was not taught (the questions) does not count. Answers go through the model token by token, as they
do when it speaks, so that each is predicted from keys and values that have been quantised.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from appliance.engine.process import load_openblas

load_openblas()  # before MLX is imported: ten times faster

import mlx.core  # noqa: E402
import mlx_lm  # noqa: E402

from appliance.engine import caches  # noqa: E402

mx: Any = mlx.core
ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "examples" / "models" / "lmx-demo"
QUESTIONS = ROOT / "examples" / "demo" / "questions.json"
Text = tuple[list[int], int]  # a whole conversation, and where its last answer begins


def conversations(tokenizer: Any) -> list[Text]:
    found = []
    for case in json.loads(QUESTIONS.read_text(encoding="utf-8")):
        asked = [*case.get("messages", []), {"role": "user", "content": case["question"]}]
        start = len(tokenizer.apply_chat_template(asked, add_generation_prompt=True))
        whole = [*asked, {"role": "assistant", "content": case["answer"]}]
        ids = list(tokenizer.apply_chat_template(whole))
        end = len(ids) - ids[::-1].index(tokenizer.eos_token_id)  # the template's line end is never said
        found.append((ids[:end], start))
    return found


def loss(net: Any, text: Text, kv_bits: int | None) -> tuple[float, int]:
    """Nats over the tokens of the answer, and how many those are."""
    ids, start = text
    cache = caches.make(net, kv_bits)
    net(mx.array([ids[: start - 1]]), cache=cache)
    total = 0.0
    for given, wanted in zip(ids[start - 1 : -1], ids[start:], strict=True):
        logits = net(mx.array([[given]]), cache=cache)[0, -1]
        total += float(mx.logsumexp(logits) - logits[wanted])
    return total, len(ids) - start


def main() -> None:
    net, tokenizer = mlx_lm.load(str(DEMO))[:2]
    texts = conversations(tokenizer)
    found = {}
    for kv_bits in (None, 8, 4):
        parts = [loss(net, text, kv_bits) for text in texts]
        found[str(kv_bits)] = math.exp(sum(nats for nats, _ in parts) / sum(count for _, count in parts))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
