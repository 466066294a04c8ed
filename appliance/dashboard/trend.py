"""The last quarter of an hour, a sample a second: what the charts are drawn from."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

SECONDS = 900


@dataclass(frozen=True)
class Sample:
    """at: wall clock, seconds. first_s: p95 of the time to first token over recent requests; None: no request
    yet. used, other: bytes. None: not measured yet."""

    at: float
    tokens_per_s: float
    first_s: float | None
    used: int | None
    other: int | None
    queued: int
    in_flight: int


class Trend:
    def __init__(self, seconds: int = SECONDS) -> None:
        self._samples: deque[Sample] = deque(maxlen=seconds)

    def add(self, sample: Sample) -> None:
        self._samples.append(sample)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The oldest first."""
        return tuple(self._samples)
