"""Where in a prompt a state is worth keeping, for models that resume only where one was kept. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

APART = 32  # tokens: of two stops closer than this one serves both well enough


def boundaries(tokens: Sequence[int], specials: Collection[int], least: int = 0) -> list[int]:
    """Positions after which other prompts may go on differently, ascending; at least `least` tokens in.

    They are before the second turn's marker (behind the system prompt, which others share), before the last
    one (the answer's opening: the next prompt may write the answer in another way, as without its thinking)
    and before the last but one (the last user turn, which may be edited; the state at the end of the answer
    before it often serves as well). Where two are close, the first of these is taken.

    specials: the tokenizer's special tokens. A turn's marker is the first of them that is there twice or
    more; where none is, the last special one stands for the answer's opening.
    """
    text = np.asarray(tokens, dtype=np.int64)
    places = np.flatnonzero(np.isin(text, np.fromiter(specials, dtype=np.int64)))
    found = text[places]
    ids, counts = np.unique(found, return_counts=True)
    repeated = ids[counts > 1]
    if repeated.size:
        marker = next(token for token in found if token in repeated)
        marks = [int(place) for place in places[found == marker]]
        wanted = [marks[1], marks[-1], marks[-2]]
    else:
        wanted = [int(place) for place in places[-1:]]
    stops: list[int] = []
    for stop in wanted:
        if stop >= max(least, 1) and all(abs(stop - other) >= APART for other in stops):
            stops.append(stop)
    return sorted(stops)
