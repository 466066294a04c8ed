"""`python -m bench.lookup FOLDER`: what it takes to find a prompt of 100,000 tokens, in milliseconds.

The engine's own cache over an index with PROMPTS such prompts, half of each shared by all. What is timed is
what the decode thread does for one request, without moving any bytes: the search at admission, the same
search when it is restored, and the beginning of its trail. Prints a JSON object: "dense" and "states" (a
model that resumes at saved states only), each a list of times.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator

TOKENS, SHARED, PROMPTS, TIMES = 100_000, 50_000, 8, 20
BLOCK_BYTES = 2**20
TURN = 1000  # tokens between two turns' markers


def prompts(marker: int) -> Iterator[list[int]]:
    draw = random.Random("lookup")
    shared = [draw.randrange(10, 1000) for _ in range(SHARED)]
    for _ in range(PROMPTS):
        prompt = shared + [draw.randrange(10, 1000) for _ in range(TOKENS - SHARED)]
        prompt[::TURN] = [marker] * len(prompt[::TURN])
        yield prompt


def main() -> None:
    from appliance.engine import load, weights
    from appliance.engine.choice import Choice
    from appliance.engine.prompt import Job
    from appliance.engine.prompt_cache import PromptCache
    from appliance.engine.reuse import Restored
    from appliance.prompt_cache.index import Index, spell
    from appliance.prompt_cache.keys import BLOCK
    from appliance.wire import Configure, Load

    order = Load("bench", sys.argv[1])
    model = load.load(order, weights.check(order), lambda done, total: None)
    marker = model.tokenizer.convert_tokens_to_ids("<|im_start|>")
    found: dict[str, list[float]] = {}
    for name, stateful in (("dense", False), ("states", True)):
        index = Index("bench", stateful)
        cache = PromptCache(model, index, None)
        index.stateful = stateful
        cache.apply(Configure(context=2 * TOKENS, cache_memory=2**50))
        texts = list(prompts(marker))
        for text in texts:
            node, data = index.root(""), spell(text)
            while node.end + BLOCK <= TOKENS:
                node, _ = index.block(node, data[node.end * 4 : (node.end + BLOCK) * 4])
                index.hold(node, b"", BLOCK_BYTES)
            state = index.state(node, data[node.end * 4 : (TOKENS - 1) * 4])
            index.hold(state, b"", BLOCK_BYTES)
        times = found[name] = []
        for number in range(TIMES):
            prompt = list(texts[number % PROMPTS])  # as the intake hands it over: seen for the first time
            job = Job(number, prompt, 16, Choice(), None, (), False)
            begin = time.perf_counter()
            match = cache.look(job)
            again = cache.look(job)
            cache.begin(job, Restored(again.tokens, again.tier))
            times.append(1000 * (time.perf_counter() - begin))
            least = TOKENS - 1 if stateful else TOKENS - 1 - BLOCK
            if match.tokens < least:
                raise RuntimeError(f"{name}: only {match.tokens} tokens were found")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
