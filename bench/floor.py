"""What the new tokens of each turn cost by themselves: mlx-lm's own model, and nothing around it.

For each turn the cache is brought, off the clock, to the tokens that the turn found in its prompt cache; then
come the others in chunks, all but the last, and the pass of the last one up to the first token of the answer.
No server, no scheduler, no text: a server's time to first token is this and what it adds to it. Chunks of
several sizes are tried, and the cheapest for the whole conversation counts. All kernels are MLX's own.

It is a child with MLX in it: one JSON line in ({"model": folder, "talks": [[[prompt, cached], ...], ...]}),
one out ({"talks": [[seconds, ...], ...], "chunk": size}).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.talk import Turn

ROOT = Path(__file__).resolve().parents[1]
CHUNKS = (2048, 512, 128)
QUIET = 512  # tokens of a chunk off the clock


def floor(folder: Path, talks: list[list[Turn]]) -> list[list[Turn]]:
    """The same turns at that cost, in a process of their own."""
    order = {"model": str(folder), "talks": [[[t.prompt, t.cached] for t in talk] for talk in talks]}
    command = [sys.executable, "-m", "bench.floor"]
    done = subprocess.run(
        command, cwd=ROOT, check=True, input=json.dumps(order), stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout)["talks"]
    return [
        [replace(turn, first_s=s, last_s=s, text="") for turn, s in zip(talk, seconds, strict=True)]
        for talk, seconds in zip(talks, found, strict=True)
    ]


class Bare:
    """A model and the cache of one conversation."""

    def __init__(self, folder: str) -> None:
        import mlx.core
        from mlx_lm.models import cache
        from mlx_lm.utils import load_model

        self._mx: Any = mlx.core
        self._lib: Any = cache
        self._net = load_model(Path(folder))[0]
        self._cache: list[Any] = []
        self._held = 0

    def talk(self, turns: list[list[int]], chunk: int) -> list[float]:
        self._drop()
        return [self._turn(prompt, cached, chunk) for prompt, cached in turns]

    def _turn(self, prompt: int, cached: int, chunk: int) -> float:
        self._bring(cached)
        ids = self._tokens(cached, prompt)
        begin = time.perf_counter()
        self._feed(ids[:-1], chunk)
        logits = self._net(self._mx.array([ids[-1:]]), cache=self._cache)[:, -1]
        self._mx.eval(self._mx.argmax(logits, axis=-1))
        spent = time.perf_counter() - begin
        self._held = prompt
        return spent

    def _bring(self, tokens: int) -> None:
        if self._held > tokens:
            if self._lib.can_trim_prompt_cache(self._cache):
                self._lib.trim_prompt_cache(self._cache, self._held - tokens)
                self._held = tokens
            else:
                self._drop()
        self._feed(self._tokens(self._held, tokens), QUIET)
        self._held = tokens

    def _drop(self) -> None:
        self._cache, self._held = self._lib.make_prompt_cache(self._net), 0

    def _feed(self, ids: list[int], chunk: int) -> None:
        for at in range(0, len(ids), chunk):
            self._net(self._mx.array([ids[at : at + chunk]]), cache=self._cache)
            self._mx.eval([cache.state for cache in self._cache])

    def _tokens(self, begin: int, end: int) -> list[int]:
        return [5 + 7 * place % 1000 for place in range(begin, end)]  # which ones costs nothing


def main() -> None:
    from appliance.engine.process import load_openblas

    load_openblas()  # before MLX, as on both sides
    order = json.loads(sys.stdin.readline())
    bare = Bare(order["model"])
    bare.talk(order["talks"][0][:2], CHUNKS[0])  # warms up
    tried = {chunk: [bare.talk(turns, chunk) for turns in order["talks"]] for chunk in CHUNKS}
    chunk = min(tried, key=lambda size: sum(map(sum, tried[size])))
    print(json.dumps({"talks": tried[chunk], "chunk": chunk}))


if __name__ == "__main__":
    main()
