"""The other side of `bench.embed`: lists of texts in, seconds out, a line each. Run by a Python that has
sentence-transformers; imports nothing of LMX."""

from __future__ import annotations

import json
import sys
import time

import sentence_transformers  # type: ignore[import-not-found]
import torch  # type: ignore[import-not-found]

model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
about = {
    "version": f"sentence-transformers {sentence_transformers.__version__}",
    "threads": torch.get_num_threads(),
}
print(json.dumps(about), flush=True)
for line in sys.stdin:
    lists = json.loads(line)
    began = time.perf_counter()
    found = [model.encode(texts, batch_size=32, show_progress_bar=False) for texts in lists]
    took = time.perf_counter() - began
    print(json.dumps({"seconds": took, "first": [float(one) for one in found[0][0]]}), flush=True)
