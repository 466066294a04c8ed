"""Writes encoders.json: what PyTorch, transformers and sentence-transformers compute for the same weights.

Run by hand where those are installed (the tests need none of them), from the root of the repository:

    PYTHONPATH=. /path/to/python tests/goldens/make_encoders.py FOLDER_OF_ALL_MINILM_L6_V2

Qwen3-Reranker has no class of its own there: its prompt and its score are computed as its model card does.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.engine.encoders import folders

MINILM = (
    "The cat sits outside.",
    "A man is playing guitar in the street, and nobody listens.",
    "",
    "Größe 42 – naïve café 日本語 🙂",
    "word " * 180,
)
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
DEFAULT = "Given a web search query, retrieve relevant passages that answer the query"


def rounded(values: Any) -> Any:
    return [[float(f"{one:.7g}") for one in row] for row in np.asarray(values, dtype=np.float64)]


def embedded(folder: Path, texts: tuple[str, ...]) -> Any:
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    found = model.encode(list(texts), normalize_embeddings=True)
    return rounded(found)


def ranked(folder: Path) -> Any:
    model = CrossEncoder(str(folder), device="cpu", num_labels=1, model_kwargs={"dtype": torch.float32})
    pairs = [(folders.QUERY, text) for text in folders.TEXTS]
    return [float(one) for one in model.predict(pairs, activation_fn=torch.nn.Sigmoid())]


@torch.no_grad()
def judged(folder: Path, instruction: str) -> Any:
    reader = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    yes, no = reader.convert_tokens_to_ids("yes"), reader.convert_tokens_to_ids("no")
    before = reader.encode(PREFIX, add_special_tokens=False)
    after = reader.encode(SUFFIX, add_special_tokens=False)
    scores = []
    for document in folders.TEXTS:
        text = f"<Instruct>: {instruction}\n<Query>: {folders.QUERY}\n<Document>: {document}"
        ids = [*before, *reader.encode(text, add_special_tokens=False), *after]
        logits = model(torch.tensor([ids])).logits[0, -1]
        scores.append(float(torch.softmax(logits[[no, yes]], dim=0)[1]))
    return scores


def main() -> None:
    found: dict[str, Any] = {
        "made_with": {
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "sentence_transformers": sentence_transformers.__version__,
        },
        "minilm": {"texts": MINILM, "vectors": embedded(Path(sys.argv[1]), MINILM)},
        "embedding": {},
        "rerank": {},
    }
    with tempfile.TemporaryDirectory() as room:
        for name, make in folders.EMBEDDING.items():
            found["embedding"][name] = embedded(make(Path(room) / f"e-{name}"), folders.TEXTS)
        for name, make in folders.RERANK.items():
            folder = make(Path(room) / f"r-{name}")
            if name == "qwen3":
                found["rerank"][name] = judged(folder, DEFAULT)
                found["rerank"]["qwen3, told what to look for"] = judged(folder, folders.INSTRUCTION)
            else:
                found["rerank"][name] = ranked(folder)
    file = Path(__file__).with_name("encoders.json")
    file.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(file, file.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
