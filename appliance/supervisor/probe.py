"""The first request of an engine's life: a short prompt it must answer before it takes traffic."""

from __future__ import annotations

from collections.abc import Callable

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor.order import Probe

RID = 0  # the router's begin at 1


def submit(probe: Probe) -> wire.Submit:
    """As plain text, so that models without a chat template can answer too."""
    sampling = wire.Sampling(max_tokens=probe.max_tokens, temperature=0.0)
    return wire.Submit(RID, prompt=probe.prompt, sampling=sampling)


def question(probe: Probe, role: str) -> wire.Embed | wire.Rank:
    """The same for an encoder, which has no tokens to yield: it must compute numbers."""
    if role == "embedding":
        return wire.Embed(0, [probe.prompt], truncate=True)
    return wire.Rank(0, probe.prompt, [probe.prompt], truncate=True)


def verdict(answer: wire.Embedded | wire.Ranked | wire.Unanswered) -> str | None:
    """What was wrong with an encoder's answer. NaN is none: its engine looks at every number itself."""
    if isinstance(answer, wire.Unanswered):
        return f"the probe failed: {answer.message}"
    found = len(answer.vectors) if isinstance(answer, wire.Embedded) else len(answer.scores)
    return None if found else "the model answered the probe with nothing"


class ProbeSink:
    """verdict: called with None for an answer, else with what was wrong. Zero tokens are no answer."""

    def __init__(self, verdict: Callable[[str | None], None]) -> None:
        self._verdict = verdict

    def accepted(self, message: wire.Accepted) -> None:
        return None  # only tokens count

    def refused(self, message: wire.Refused) -> None:
        self._verdict(f"the probe was refused: {message.message}")

    def row(self, row: wire.Row) -> None:
        if row.finish == "error":
            self._verdict(f"the probe failed: {row.message or 'no reason given'}")
        elif row.finish is not None:
            self._verdict(None if row.tokens else "the model answered the probe with no token at all")

    def lost(self, error: ApiError) -> None:
        self._verdict(error.message)

    def returned(self) -> None:
        return None  # the engine ends, and says itself why
