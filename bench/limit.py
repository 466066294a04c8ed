"""How near the engine's loop comes to mlx-lm's own, measured at the wire.

Both sides run in this one script on the same machine, model and BLAS, in alternating rounds: the limit
in a process that only has mlx-lm (`stream_generate` for one stream, `BatchGenerator` for sixteen), ours in
an engine process whose client reads frames and counts. Models are random-weight Qwen3 shapes.

`ratio` is of wall time (ours over the limit, higher is better). `cpu_ratio` compares the processor time
the two processes used for the same tokens: on a machine that does other work too, it is the steadier one.

    python bench/limit.py [--rounds 5] [--model 5m 90m] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from appliance import wire  # noqa: E402

SHAPES: dict[str, dict[str, Any]] = {
    "5m": {
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "intermediate_size": 768,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
    },
    "90m": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "intermediate_size": 2304,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
}
TOKENS = {"5m": (250, 100), "90m": (80, 40)}  # generated per stream: alone, in a batch of sixteen
STREAMS = 16
PROMPT = 32  # tokens
READY = "ready"


def make(folder: Path, shape: str) -> Path:
    """Write the model; in a process of its own, so that this one stays without MLX."""
    code = (
        "import sys; from pathlib import Path; from bench.limit import SHAPES;"
        "from tests.engine import models; name = sys.argv[2];"
        "models.write(Path(sys.argv[1]), {**models.QWEN3, **SHAPES[name]}, eos_token_id=1,"
        " max_position_embeddings=4096)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), shape], cwd=ROOT, check=True)
    return folder


def prompts(count: int) -> list[list[int]]:
    return [[2 + (7 * row + 3 * n) % 250 for n in range(PROMPT)] for row in range(count)]


# -- the limit: this script again, with --serve-limit --------------------------------------------------


def serve_limit(folder: str) -> None:
    """Read `streams tokens` from stdin, answer `seconds first`: of all, and until every row has a token."""
    from appliance.engine.process import load_openblas

    load_openblas()
    import mlx_lm
    from mlx_lm.generate import BatchGenerator, stream_generate

    model, tokenizer = mlx_lm.load(folder)
    print(READY, flush=True)
    for line in sys.stdin:
        streams, tokens = map(int, line.split())
        start = time.perf_counter()
        first = 0.0
        if streams == 1:
            tokenizer.eos_token_ids = set()
            for response in stream_generate(model, tokenizer, prompts(1)[0], max_tokens=tokens):
                if response.generation_tokens == 1:
                    first = time.perf_counter() - start
        else:
            generator = BatchGenerator(model, completion_batch_size=streams, prefill_batch_size=streams)
            generator.insert(prompts(streams), [tokens] * streams)
            seen: set[int] = set()
            while responses := generator.next_generated():
                seen.update(response.uid for response in responses)
                if len(seen) == streams and not first:
                    first = time.perf_counter() - start
            generator.close()
        print(time.perf_counter() - start, first, flush=True)


class Limit:
    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), "--serve-limit", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == READY

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def run(self, streams: int, tokens: int) -> tuple[float, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{streams} {tokens}\n")
        self.process.stdin.flush()
        seconds, first = self._read().split()
        return float(seconds), float(first)

    def close(self) -> None:
        self.process.communicate()


# -- ours ----------------------------------------------------------------------------------------------


class Ours:
    def __init__(self, folder: Path) -> None:
        self._sock, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "appliance.engine", "--fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
            stderr=subprocess.DEVNULL if not os.environ.get("LMX_BENCH_LOG") else None,
        )
        theirs.close()
        self._file = self._sock.makefile("rb")
        self._rid = 0
        self._send(wire.Load("bench", str(folder)))
        while not isinstance(self._next(), wire.Loaded):
            pass
        self._send(wire.Configure(context=4096, concurrency=STREAMS))

    def _send(self, message: wire.ToEngine) -> None:
        self._sock.sendall(wire.encode(message))

    def _next(self) -> wire.FromEngine:
        (length,) = wire.HEADER.unpack(self._file.read(wire.HEADER.size))
        return wire.decode_from_engine(self._file.read(length))

    def run(self, streams: int, tokens: int) -> tuple[float, float]:
        start = time.perf_counter()
        for prompt in prompts(streams):
            self._rid += 1
            self._send(
                wire.Submit(
                    self._rid, prompt=prompt, ignore_eos=True, sampling=wire.Sampling(max_tokens=tokens)
                )
            )
        seen: set[int] = set()
        ended, produced, first = 0, 0, 0.0
        while ended < streams:
            message = self._next()
            if isinstance(message, wire.Step):
                for row in message.rows:
                    seen.add(row.rid)
                    if row.finish is not None:
                        ended += 1
                        produced += row.tokens
                if len(seen) == streams and not first:
                    first = time.perf_counter() - start
        seconds = time.perf_counter() - start
        assert produced == streams * tokens, (produced, streams, tokens)
        return seconds, first

    def close(self) -> None:
        self._send(wire.Shutdown())
        self.process.wait()
        self._file.close()
        self._sock.close()


def cpu_seconds(process: subprocess.Popen[Any]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def timed(side: Limit | Ours, streams: int, tokens: int) -> tuple[float, float, float]:
    """Seconds, seconds to the last row's first token, processor seconds."""
    before = cpu_seconds(side.process)
    seconds, first = side.run(streams, tokens)
    return seconds, first, cpu_seconds(side.process) - before


def measure(folder: Path, shape: str, rounds: int) -> list[dict[str, Any]]:
    limit, ours = Limit(folder), Ours(folder)
    results = []
    try:
        for streams, tokens in zip((1, STREAMS), TOKENS[shape], strict=True):
            for side in (limit, ours):
                side.run(streams, 8)  # warm
            samples = [tuple(timed(side, streams, tokens) for side in (limit, ours)) for _ in range(rounds)]
            rates = [
                [streams * tokens / seconds for seconds, _, _ in side] for side in zip(*samples, strict=True)
            ]
            firsts = [[first for _, first, _ in side] for side in zip(*samples, strict=True)]
            cpu = [statistics.median(used for _, _, used in side) for side in zip(*samples, strict=True)]
            results.append(
                {
                    "model": shape,
                    "streams": streams,
                    "limit_tokens_per_s": round(statistics.median(rates[0]), 1),
                    "ours_tokens_per_s": round(statistics.median(rates[1]), 1),
                    "ratio": round(
                        statistics.median(ours / limit for limit, ours in zip(*rates, strict=True)), 3
                    ),
                    # the best round of each side: what is left when other programs leave the machine alone
                    "best_ratio": round(max(rates[1]) / max(rates[0]), 3),
                    "cpu_ratio": round(cpu[0] / cpu[1], 3),
                    "limit_all_started_ms": round(1000 * statistics.median(firsts[0]), 1),
                    "ours_all_started_ms": round(1000 * statistics.median(firsts[1]), 1),
                }
            )
            print("  ".join(f"{key}={value}" for key, value in results[-1].items()), flush=True)
    finally:
        limit.close()
        ours.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve-limit", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_limit:
        serve_limit(options.serve_limit)
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in options.model:
            results += measure(make(Path(folder) / shape, shape), shape, options.rounds)
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
