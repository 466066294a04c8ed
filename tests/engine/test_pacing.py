"""Which prompt gets the next chunk, and how large it is, in virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from appliance.engine.pacing import FIRST, LEAST, MOST, PATIENCE, PAUSE, STEPS, Pace, Shares, pick

CHUNK = 512


@dataclass(eq=False)
class Prompt:
    left: int
    waited: int = 0
    chunks: int = 0  # of anybody, since it came


def serve(prompts: list[Prompt], chunk: int) -> Prompt:
    """One chunk."""
    chosen = prompts[pick([p.left for p in prompts], [p.waited for p in prompts])]
    for prompt in prompts:
        prompt.chunks += 1
        prompt.waited = 0 if prompt is chosen else prompt.waited + 1
    chosen.left -= chunk
    if chosen.left <= 0:
        prompts.remove(chosen)
    return chosen


def test_the_shortest_goes_first() -> None:
    prompts = [Prompt(8000), Prompt(40), Prompt(300)]
    assert [serve(prompts, CHUNK).left for _ in range(2)] == [40 - CHUNK, 300 - CHUNK]


@pytest.mark.parametrize("longs", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_a_long_prompt_ends_within_its_bound_under_an_endless_stream_of_short_ones(
    longs: int, seed: int
) -> None:
    chance = random.Random(seed)
    waiting = [Prompt(8000 + chance.randrange(4000)) for _ in range(longs)]
    bounds = {id(prompt): (PATIENCE + longs) * -(-prompt.left // CHUNK) for prompt in waiting}
    prompts = list(waiting)
    while any(prompt.left > 0 for prompt in waiting):
        while sum(prompt not in waiting for prompt in prompts) < 3:
            prompts.append(Prompt(chance.randint(1, 2 * CHUNK)))
        serve(prompts, CHUNK)
        for prompt in waiting:
            assert prompt.left <= 0 or prompt.chunks < bounds[id(prompt)]


def test_short_prompts_lose_little_to_a_long_one() -> None:
    """Each one that is a chunk long waits for one chunk of the long one at most."""
    prompts, waits = [Prompt(10**6)], []
    for _ in range(200):
        short = Prompt(40)
        prompts.append(short)
        while short.left > 0:
            serve(prompts, CHUNK)
        waits.append(short.chunks)
    assert max(waits) == 2
    assert sum(waits) <= 200 * (1 + 1 / PATIENCE) + 1


class Device:
    """A pass costs `overhead` seconds and `per_token` more of each token."""

    def __init__(self, overhead: float, per_token: float) -> None:
        self.overhead = overhead
        self.per_token = per_token

    def seconds(self, tokens: int) -> float:
        return self.overhead + self.per_token * tokens


@pytest.mark.parametrize("overhead", [0.0, 0.002, 0.02])
@pytest.mark.parametrize("per_token", [1e-5, 2e-4, 4e-4, 1e-3])
def test_beside_running_rows_a_chunk_takes_the_bounded_time(overhead: float, per_token: float) -> None:
    device, pace = Device(overhead, per_token), Pace()
    for _ in range(60):
        chunk = pace.chunk(CHUNK, beside=True)
        pace.note(chunk, device.seconds(chunk))
    pause = device.seconds(pace.chunk(CHUNK, beside=True))
    assert LEAST <= chunk <= MOST
    assert pause <= max(1.1 * PAUSE, device.seconds(LEAST))
    if chunk < MOST:
        assert pause >= min(0.9 * PAUSE, device.seconds(LEAST))


def test_it_follows_a_device_that_slows_down() -> None:
    pace = Pace()
    for context in range(0, 16000, 100):
        device = Device(0.003, 1e-4 * (1 + context / 2000))
        chunk = pace.chunk(CHUNK, beside=True)
        pace.note(chunk, device.seconds(chunk))
        if context > 500:
            assert device.seconds(chunk) <= 1.25 * PAUSE


def test_alone_and_without_auto_a_chunk_is_what_was_declared() -> None:
    pace = Pace()
    assert pace.chunk(CHUNK, beside=True) == FIRST
    pace.note(400, 4.0)
    assert pace.chunk(CHUNK, beside=False) == CHUNK * 4 // 5
    assert pace.chunk(CHUNK, beside=False, auto=False) == CHUNK
    assert pace.chunk(CHUNK, beside=True, auto=False) == CHUNK
    assert pace.chunk(8, beside=True) == 8
    assert pace.chunk(0, beside=False) == 1


def test_a_few_tokens_say_nothing_of_the_speed() -> None:
    pace = Pace()
    pace.note(1, 1.0)
    pace.note(0, 0.0)
    assert pace.speed is None


@pytest.mark.parametrize("ratio", [1.0, 1.2, 1.5, 2.0, 2.9, 8.0])
def test_batches_share_the_time_as_long_as_one_takes_few_steps_a_turn(ratio: float) -> None:
    shares = {0.01: Shares(), 0.01 * ratio: Shares()}
    taken = dict.fromkeys(shares, 0.0)
    for _ in range(500):
        slowest = max(share.seconds or 0.0 for share in shares.values())
        due = {seconds: share.steps(slowest) for seconds, share in shares.items()}
        assert due[max(due)] == 1, "the slowest takes one"
        assert 1 <= min(due.values()) <= max(due.values()) <= STEPS
        for seconds, steps in due.items():
            taken[seconds] += steps * seconds
            for _ in range(steps):
                shares[seconds].note(seconds)
    expected = min(STEPS, ratio) / ratio
    assert taken[min(taken)] / taken[max(taken)] == pytest.approx(expected, rel=0.02)
