"""What the dashboard is made of: a trend that grows each second, and a page made when somebody looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from appliance.dashboard.diff import pending_diff
from appliance.dashboard.render import Page
from appliance.dashboard.trend import Sample, Trend
from appliance.dashboard.view import View, view
from reconciler.gate import Gate


class Dashboard:
    """status: the whole document. gate: what was accepted and refused."""

    def __init__(self, status: Callable[[], dict[str, Any]], gate: Callable[[], Gate]) -> None:
        self._status, self._gate = status, gate
        self._trend = Trend()
        self.page = Page(self._view)

    def sampled(self, traffic: Mapping[str, Any], memory: Mapping[str, Any]) -> None:
        """Once a second, watched or not: both as in the status document."""
        first = traffic["ttft_p95_ms"]
        self._trend.add(
            Sample(
                at=time.time(),
                tokens_per_s=traffic["tokens_per_s"],
                first_s=None if first is None else first / 1000,
                used=memory["used_bytes"],
                other=memory["other_bytes"],
                queued=traffic["queued"],
                in_flight=traffic["in_flight"],
            )
        )

    def _view(self) -> View:
        return view(self._status(), self._trend.samples, pending_diff(self._gate()), time.time())
