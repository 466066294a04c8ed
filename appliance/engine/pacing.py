"""Which prompt gets the next chunk and how large it is, and how often each batch steps. Pure.

**Which.** The one with the least left, so that short prompts do not wait for long ones; but one that has
watched `PATIENCE` chunks of others go by goes first, whatever it has left. So a prompt of n chunks is done
after (PATIENCE + 1) x n chunks at most while short ones come without end, and with k long ones that wait,
after (PATIENCE + k) x n.

**How large.** With nobody decoding, as large as allowed: `prefill_chunk`, which the workspace is priced for,
or `REGULAR` of it where the size is ours to choose: then a rest too short for a pass of its own goes with the
chunk before it (542 tokens in one pass took 0.8 of the time that 512 and 30 took).
Beside running rows a chunk is the pause that each of their streams sees, so it is what takes `PAUSE` seconds
by the speed of the chunks before it: an exponential average, since a longer context makes them slower.

**How often.** Where several batches decode, each has about the same share of the time: one whose steps are
short takes up to `STEPS` of them a turn, so that a long row slows short ones down by half, not to its pace.
"""

from __future__ import annotations

from collections.abc import Sequence

PATIENCE = 4  # chunks of others
PAUSE = 0.05  # seconds: a pause that a reader does not notice
LEAST = 32  # tokens: below this a pass over the weights is wasted on too few
REGULAR = 4 / 5  # of what is allowed; the last chunk may be all of it
MOST = 256  # tokens beside running rows: an eighth of the chunk that mlx-lm's server pauses for
FIRST = 64  # tokens, while the speed is not known
WEIGHT = 0.3  # of the newest chunk, or step, in the average
STEPS = 3  # of one batch in a turn


class Pace:
    """The speed of chunks, and the size it gives the next one."""

    def __init__(self) -> None:
        self.speed: float | None = None  # tokens a second, padded ones included

    def note(self, tokens: int, seconds: float) -> None:
        """A chunk of so many tokens took so long. Tiny ones are left out: they say nothing of larger ones."""
        if tokens < LEAST // 2 or seconds <= 0:
            return
        speed = tokens / seconds
        self.speed = speed if self.speed is None else WEIGHT * speed + (1 - WEIGHT) * self.speed

    def chunk(self, most: int, *, beside: bool, auto: bool = True) -> int:
        """Tokens of the next chunk. most: `prefill_chunk`. beside: rows decode. auto: not a fixed size."""
        most = max(1, most)
        if not auto:
            return most
        if not beside:
            return max(1, int(most * REGULAR))
        fitting = FIRST if self.speed is None else int(self.speed * PAUSE)
        return min(most, MOST, max(LEAST, fitting))


def pick(left: Sequence[int], waited: Sequence[int]) -> int:
    """The index of the prompt whose turn it is.

    left: tokens of each still to compute. waited: chunks of others since its own last one.
    """
    longest = max(waited)
    if longest >= PATIENCE:
        return waited.index(longest)
    return min(range(len(left)), key=left.__getitem__)


class Shares:
    """How many steps a batch takes in the turns to come."""

    def __init__(self) -> None:
        self.seconds: float | None = None  # a step, on average
        self._due = 0.0  # steps, and a part of one

    def note(self, seconds: float) -> None:
        """A step of this batch took so long."""
        self.seconds = seconds if self.seconds is None else WEIGHT * seconds + (1 - WEIGHT) * self.seconds

    def steps(self, slowest: float) -> int:
        """In this turn. slowest: seconds of a step of the slowest batch, which takes one."""
        ratio = slowest / self.seconds if self.seconds else 1.0
        self._due = self._due % 1 + min(STEPS, max(1.0, ratio))
        return min(STEPS, int(self._due))
