"""Which fault comes when: drawn from a seed, the same for the same seed.

Kinds come in rounds, each kind once a round in an order by chance, so that none is forgotten and every
pair of neighbours comes up in time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from tests.chaos.faults import Fault

LEAST_S, MOST_S = 0.3, 3.5  # from the beginning of one fault to that of the next; both are drawn


def schedule(
    seed: int, kinds: Sequence[type[Fault]], most_s: float = MOST_S
) -> Iterator[tuple[float, Fault]]:
    """(seconds to wait before it, fault), without end."""
    random_ = random.Random(seed)
    while True:
        for kind in random_.sample(kinds, len(kinds)):
            yield random_.uniform(LEAST_S, most_s), kind.draw(random_)
