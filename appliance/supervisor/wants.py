"""Models that requests wait for and the table said `wake` of.

A model that was asked for and turned out not to fit stays wanted for a while. Else each further request
for it would be decided anew: asked for, found not to fit, refused, forgotten, with orders and events each
time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from reconciler.observed import RoutingTable

REMEMBERED_S = 30.0  # after the last request that was refused


class Wants:
    """Times are seconds on the event loop's clock."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._refused: dict[str, float] = {}  # nobody waits for these any more; when they last were refused

    def add(self, model: str, at: float) -> bool:
        """A request waits for this model since `at`. Whether that is news."""
        self._refused.pop(model, None)
        if model in self._since:
            return False
        self._since[model] = at
        return True

    def refused(self, model: str, now: float) -> None:
        """Another request was refused: keep it in mind, if it is."""
        if model in self._refused:
            self._refused[model] = now

    def settle(self, waited_for: Callable[[str], bool], table: RoutingTable, now: float) -> bool:
        """Forget those that nobody waits for, but the refused ones. Whether that changed anything."""
        gone = []
        for model in self._since:
            if waited_for(model):
                self._refused.pop(model, None)
                continue
            route = table.routes.get(model)
            refused = route is not None and route.status == "refuse"
            if not refused or now - self._refused.setdefault(model, now) >= REMEMBERED_S:
                gone.append(model)
        for model in gone:
            del self._since[model]
            self._refused.pop(model, None)
        return bool(gone)

    def current(self) -> Mapping[str, float]:
        """Model -> since when it is wanted."""
        return dict(self._since)
