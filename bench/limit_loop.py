"""mlx-lm's own loops, as fast as they go: what any server on top of them can at best reach.

Reads one load a line from stdin, answers one result a line. One stream: `stream_generate`. Several:
`BatchGenerator`, into which a client's next request is put the moment its last one ends.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from appliance.engine.process import load_openblas
from bench.workload import Load, Request


def main(folder: str) -> None:
    load_openblas()
    import mlx_lm

    model, tokenizer = mlx_lm.load(folder)[:2]
    _say({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        load = Load(**{**asked["load"], "tokens": tuple(asked["load"]["tokens"])})
        run = _alone if load.streams == 1 else _batched
        _say(run(model, tokenizer, load, asked["round"]))


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _prompt(tokenizer: Any, request: Request) -> list[int]:
    message = [{"role": "user", "content": request.text}]
    return list(tokenizer.apply_chat_template(message, add_generation_prompt=True))


def _alone(model: Any, tokenizer: Any, load: Load, round_: int) -> dict[str, Any]:
    from mlx_lm import stream_generate

    start = time.perf_counter()
    tokens, ttft = 0, []
    for request in load.of(0, round_):
        began = time.perf_counter()
        prompt = _prompt(tokenizer, request)
        times = [
            time.perf_counter() - began
            for _ in stream_generate(model, tokenizer, prompt, max_tokens=request.tokens)
        ]
        tokens += len(times)
        ttft.append(times[0])
    return {"seconds": time.perf_counter() - start, "tokens": tokens, "ttft": ttft}


def _batched(model: Any, tokenizer: Any, load: Load, round_: int) -> dict[str, Any]:
    from mlx_lm.generate import BatchGenerator

    generator = BatchGenerator(
        model,
        stop_tokens=[[t] for t in tokenizer.eos_token_ids],
        completion_batch_size=load.streams,
        prefill_batch_size=load.streams,
    )
    start = time.perf_counter()
    waiting = {client: load.of(client, round_) for client in range(load.streams)}
    owner: dict[int, int] = {}
    began: dict[int, float] = {}
    tokens, ttft = 0, []

    def insert(clients: list[int]) -> None:
        requests = [waiting[c].pop(0) for c in clients]
        uids = generator.insert(
            [_prompt(tokenizer, r) for r in requests], max_tokens=[r.tokens for r in requests]
        )
        for uid, c in zip(uids, clients, strict=True):
            owner[uid], began[uid] = c, time.perf_counter()

    insert(list(waiting))
    while owner:
        free = []
        for response in generator.next_generated():
            tokens += 1
            if response.uid in began:
                ttft.append(time.perf_counter() - began.pop(response.uid))
            if response.finish_reason is not None:
                free.append(owner.pop(response.uid))
        more = [c for c in free if waiting[c]]
        if more:
            insert(more)
    seconds = time.perf_counter() - start
    generator.close()
    return {"seconds": seconds, "tokens": tokens, "ttft": ttft}


if __name__ == "__main__":
    main(sys.argv[1])
