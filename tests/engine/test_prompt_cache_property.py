"""Whatever was cached, lost, damaged or restarted: greedy output is what it would have been without a cache.

Two engine processes serve the same random conversations. One has no cache; the other has both tiers, too
little memory at times, and is killed and has its files damaged under way. LMX_CONVERSATIONS sets how many of
them each architecture gets; LMX_SEED where they start.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from appliance import wire
from tests.engine import models
from tests.engine.client import Engine, Reply

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "dense": models.QWEN3,
    "sliding": {**models.GEMMA3, "sliding_window": 48},
    "hybrid": models.QWEN3_NEXT,
}
CONVERSATIONS = int(os.environ.get("LMX_CONVERSATIONS", "20"))
SEED = int(os.environ.get("LMX_SEED", "1"))
START, END = 0, 1
CONTEXT = 2048
PLENTY = 100_000_000  # bytes


class World:
    """The two engines, what was said in the conversation at hand, and what has been counted."""

    def __init__(self, folder: Path, root: Path, start: Callable[[], Engine]) -> None:
        self._folder, self._root, self._start = folder, root, start
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self.random = random.Random(SEED)
        self.seen: Counter[str] = Counter()
        self.cold = start()
        self.cold.load(folder)
        self.cold.send(wire.Configure(context=CONTEXT))
        self.memory = PLENTY
        self.warm = self._new()
        self.systems = [self.turn(count) for count in (150, 300, 530)]
        self.said: list[list[int]] = []  # prompts of this conversation with their answers

    def _new(self) -> Engine:
        engine = self._start()
        engine.load(self._folder, cache_path=str(self._root))
        self._configure(engine)
        return engine

    def _configure(self, engine: Engine) -> None:
        chunk = self.random.choice([32, 100, 512])
        engine.send(
            wire.Configure(
                context=CONTEXT,
                cache_memory=self.memory,
                cache_disk=PLENTY,
                prefill_chunk=chunk,
                prefill_auto=False,
            )
        )

    # -- texts ---------------------------------------------------------------------------------------

    def turn(self, count: int | None = None) -> list[int]:
        count = self.random.choice([3, 40, 120, 260]) if count is None else count
        return [START, *(self.random.randrange(2, 320) for _ in range(count)), END]

    def prompt(self) -> list[int]:
        """Go on, go back, or change what was said."""
        if not self.said:
            return [*self.random.choice(self.systems), *self.turn(), START]
        last = self.said[-1]
        kind = self.random.choice(["on", "on", "on", "fork", "edit", "again", "cut", "stop"])
        self.seen[kind] += 1
        if kind == "on":
            return [*last, END, *self.turn(), START]
        if kind == "fork":
            return [*self.random.choice(self.said), END, *self.turn(), START]
        if kind == "again":
            return last[:-1] or last
        at = self.random.randrange(1, len(last))
        if kind == "stop":
            return [*last[:at], START]
        return [*last[:at], 2, *last[at + 1 :]] if kind == "edit" else last[:at]

    # -- what happens --------------------------------------------------------------------------------

    def ask(self, *prompts: list[int]) -> list[Reply]:
        """The same of both engines; they must say the same."""
        tokens = self.random.choice([1, 5, 24])
        pairs = [
            [engine.submit(prompt, max_tokens=tokens, temperature=0.0) for engine in (self.warm, self.cold)]
            for prompt in prompts
        ]
        self.warm.finish(*(warm for warm, _ in pairs))
        self.cold.finish(*(cold for _, cold in pairs))
        for prompt, (warm, cold) in zip(prompts, pairs, strict=True):
            assert warm.accepted is not None, warm.refused
            assert cold.accepted is not None
            assert cold.accepted.cached_tokens == 0
            self.seen[warm.accepted.cached_from or "computed"] += 1
            assert (warm.text, warm.finish) == (cold.text, cold.finish), (
                f"{len(prompt)} tokens, {warm.accepted.cached_tokens} from {warm.accepted.cached_from}"
            )
            answer = self._tokenizer.encode(warm.text, add_special_tokens=False)
            self.said.append([*prompt, *answer])
        return [warm for warm, _ in pairs]

    def cancel(self, prompt: list[int]) -> None:
        """Somewhere in its prefill, or in its answer, or after it."""
        reply = self.warm.submit(prompt, max_tokens=30, temperature=0.0)
        if self.random.random() < 0.7:
            self.warm.until(lambda: reply.accepted is not None or reply.ended)
        self.warm.send(wire.Cancel(reply.rid))
        self.warm.finish(reply)
        self.seen[f"ended: {reply.finish}"] += 1

    def change_memory(self) -> None:
        self.memory = self.random.choice([0, 300_000, 1_000_000, PLENTY])
        self._configure(self.warm)

    def use(self) -> wire.CacheUse:
        self.warm.beats.clear()
        self.warm.until(lambda: bool(self.warm.beats))
        return self.warm.beats[-1].cache

    def restart(self) -> None:
        """kill -9, at times after what is on its way to disk has got there."""
        if self.random.random() < 0.7:
            before = -1
            while (now := self.use().disk_bytes) != before:
                before = now
        self.warm.process.kill()
        self.warm.close()
        self.warm = self._new()
        self.seen["restarts"] += 1

    def damage(self) -> None:
        """Some files lose a bit, their ends, or themselves."""
        files = sorted(self._root.rglob("*.safetensors"))
        files = [file for file in files if file.parent.name != "damaged"]
        for file in self.random.sample(files, min(len(files), 3)):
            way = self.random.choice(["bit", "cut", "gone", "empty"])
            try:
                data = bytearray(file.read_bytes())
            except FileNotFoundError:  # replaced by a longer one just now
                continue
            if way == "gone" or not data:
                file.unlink(missing_ok=True)
                continue
            data[self.random.randrange(len(data))] ^= 16
            left = {"bit": len(data), "cut": len(data) // 2, "empty": 0}[way]
            file.write_bytes(data[:left])
            self.seen["damaged files"] += 1

    def converse(self) -> None:
        self.said = []
        for _ in range(self.random.randint(2, 5)):
            chance = self.random.random()
            if chance < 0.12:
                self.change_memory()
            elif chance < 0.20:
                self.damage()
            elif chance < 0.26:
                self.restart()
            prompt = self.prompt()[-(CONTEXT - 400) :]
            kind = self.random.random()
            if kind < 0.15:
                self.cancel(prompt)
            if kind > 0.8:
                self.ask(prompt, prompt, self.prompt()[-(CONTEXT - 400) :])
            else:
                self.ask(prompt)


@pytest.fixture(params=ARCHITECTURES)
def world(request: pytest.FixtureRequest, tmp_path: Path, start: Callable[[], Engine]) -> World:
    folder = models.write(tmp_path / "model", ARCHITECTURES[request.param])
    return World(folder, tmp_path / "cache", start)


@pytest.mark.slow
@pytest.mark.timeout(300 + 30 * CONVERSATIONS)
def test_a_cache_never_changes_a_token(world: World) -> None:
    for _ in range(CONVERSATIONS):
        world.converse()
    world.memory = PLENTY
    world._configure(world.warm)
    world.said = []
    prompt = [*world.systems[2], *world.turn(200), START]
    world.ask(prompt)
    (again,) = world.ask(prompt)
    assert again.accepted is not None
    assert again.accepted.cached_tokens >= 512, "memory holds it"
    assert again.accepted.cached_from == "memory"
    while world.use().disk_bytes == 0:
        pass  # each look waits for a beat
    world.restart()
    (again,) = world.ask(prompt)
    assert again.accepted is not None
    use = world.use()
    assert use.disk == "ready"
    assert world.seen["memory"] >= CONVERSATIONS // 2, world.seen
    assert world.seen["disk"] >= 1, world.seen
