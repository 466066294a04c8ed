"""The next turn of a long conversation: from memory, and from disk after kill -9 of everything.

A round begins with a conversation nobody has seen, sent whole: the cold time. Then the next turn, with the
answer in it: from memory. Then, once the cache's files have come to rest, every process is killed, the
files leave the page cache, LMX starts again, and one more turn comes: from disk. Cold is taken on the
shortest of the three prompts, which is to the disadvantage of LMX.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

from bench import models, talk
from bench.floor import floor
from bench.sides import Ours
from bench.talk import Talk, Turn

TOKENS, ANSWER, CONTEXT = 8000, 16, 16384
RESTORED = 0.97  # of the prompt, at least: else the times are not of what they claim to be
# The files are at rest when none has changed for so long: the end of a text is held back for a second.
REST_S, REST_LIMIT_S = 3.0, 60.0


@dataclass(frozen=True)
class Round:
    """floor: the turn from memory by its new tokens' bare forward pass; no server can be faster."""

    cold: Turn
    memory: Turn
    disk: Turn
    floor: Turn


def play(scratch: Path, shape: str, rounds: int) -> list[Round]:
    """The first round warms up and is not among them."""
    folder = models.make(scratch / f"turn-{shape}", shape, CONTEXT)
    place = scratch / f"turn-{shape}-run"
    place.mkdir()
    cache = place / "cache"
    ours = Ours(folder, place, cache={"memory": "1GiB", "disk": "8GiB", "path": str(cache)})
    try:
        played = [_round(ours, cache, round_) for round_ in range(rounds + 1)][1:]
    finally:
        ours.close()
    bare = floor(folder, [[memory] for _, memory, _ in played])
    return [Round(*turns, own) for turns, [own] in zip(played, bare, strict=True)]


def _round(ours: Ours, cache: Path, round_: int) -> tuple[Turn, Turn, Turn]:
    draw = random.Random(f"turn {round_}")
    said = talk.conversation(draw, TOKENS)
    cold, said = _turn(ours, draw, said)
    if cold.cached > (1 - RESTORED) * cold.prompt:
        raise RuntimeError(f"{cold.cached} of {cold.prompt} tokens of a cold prompt came from the cache")
    memory, said = _turn(ours, draw, said)
    _check(memory)
    rest(cache)
    ours.kill()
    forget_pages(cache)
    ours.restart()
    disk, _ = _turn(ours, draw, said)
    _check(disk)
    return cold, memory, disk


def _turn(ours: Ours, draw: random.Random, said: Talk) -> tuple[Turn, Talk]:
    """One turn, and the conversation with the next question in it."""
    turn = asyncio.run(talk.ask(ours.port, ours.model, said, ANSWER))
    return turn, [*talk.said(said, turn), talk.question(draw)]


def _check(turn: Turn) -> None:
    if turn.cached < RESTORED * turn.prompt:
        raise RuntimeError(f"only {turn.cached} of {turn.prompt} tokens came from the cache")


def rest(cache: Path) -> None:
    """Return when there are files and none of them has changed for REST_S."""
    end = time.monotonic() + REST_LIMIT_S
    seen, since = _files(cache), time.monotonic()
    while not seen or time.monotonic() < since + REST_S:
        if time.monotonic() > end:
            raise RuntimeError(f"the files under {cache} do not come to rest")
        time.sleep(0.05)
        if (now := _files(cache)) != seen:
            seen, since = now, time.monotonic()


def _files(cache: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for folder, _, names in os.walk(cache):
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
            except FileNotFoundError:  # renamed meanwhile
                continue
            found[path] = status.st_size, status.st_mtime_ns
    return found


def forget_pages(cache: Path) -> None:
    """So that the files are read from the disk, as after a reboot. Where the system has no such call they
    come from its page cache."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in _files(cache):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)  # pages not written yet would stay
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
