"""What the dashboard is made of: a trend that grows each second, and a page made when somebody looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from appliance.dashboard.diff import pending
from appliance.dashboard.live import Live
from appliance.dashboard.pace import Paces
from appliance.dashboard.trend import Sample, Trend
from appliance.dashboard.view import View, view
from reconciler.gate import Accepted, Gate


class Dashboard:
    """status: the whole document. gate: what was accepted and refused. good: last-known-good."""

    def __init__(
        self,
        status: Callable[[], dict[str, Any]],
        gate: Callable[[], Gate],
        good: Callable[[], Accepted | None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._status, self._gate, self._good, self._wall = status, gate, good, wall
        self._trend, self._paces = Trend(), Paces()
        self.live = Live(self._view)

    def sampled(self, traffic: Mapping[str, Any], memory: Mapping[str, Any]) -> None:
        """Once a second, watched or not: both as in the status document."""
        first = traffic["ttft_p95_ms"]
        self._trend.add(
            Sample(
                at=self._wall(),
                tokens_per_s=traffic["tokens_per_s"],
                first_s=None if first is None else first / 1000,
                used=memory["used_bytes"],
                other=memory["other_bytes"],
                queued=traffic["queued"],
                in_flight=traffic["in_flight"],
            )
        )
        self.live.tick()

    def _view(self) -> View:
        status, now = self._status(), self._wall()
        paces = self._paces.look(status["models"], now)
        return view(status, self._trend.samples, now, pending(self._gate(), self._good()), paces)
