"""What the router counts, for status and metrics. Outcomes of requests are counted in `appliance.tally`."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

RING = 512  # requests that time-to-first-token percentiles look back on
WEIGHT = 0.2  # of the newest request in the running mean of durations


@dataclass
class Counters:
    """Totals since start. Times in seconds on the loop's clock unless a name says otherwise."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    finished_tokens: int = 0  # completion tokens of ended requests
    ttft_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RING))
    last_used: dict[str, float] = field(default_factory=dict)  # engine id -> when its last request ended
    pace: dict[str, float] = field(default_factory=dict)  # model -> running mean of a request's duration

    def ended(self, model: str, engine: str, outcome: str, tokens: int, duration: float, now: float) -> None:
        self.finished_tokens += tokens
        self.last_used[engine] = now
        if outcome == "ok":
            mean = self.pace.get(model, duration)
            self.pace[model] = mean + WEIGHT * (duration - mean)

    def forget(self, models: Container[str]) -> None:
        """Drop what belongs to other models than these: names come and go with edits."""
        self.pace = {model: pace for model, pace in self.pace.items() if model in models}
