"""Downloads of declared models, by the digest of the form that needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from appliance.hub.cache import Wanted
from reconciler.observed import ModelFiles


class Fetching:
    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change

    def overlay(self, digest: str, found: ModelFiles) -> ModelFiles:
        if found.state == "absent":
            return replace(found, state="broken", message="not in the hub cache; downloads are not there yet")
        return found

    def start(self, digest: str, wanted: list[Wanted]) -> None:
        raise NotImplementedError

    def cancel(self, digest: str) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        return None
