"""max_tokens that the context has no room for: the answer may have what is left of it.

Anthropic's API takes such a request, and where the context ends before the answer does, `stop_reason` says
`model_context_window_exceeded`. Coding agents count on it: they ask for 32,000 tokens each time. How much
room there is only the engine knows, and it says so when it refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from appliance import wire
from appliance.errors import ApiError

if TYPE_CHECKING:
    from appliance.server.generate import Opener, Source


class Window:
    """Opens a row as `opener` does. room: tokens that its answer can have, where it asked for more."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self.room: int | None = None

    async def open(self, model: str | None, submit: wire.Submit, **more: Any) -> Source:
        try:
            return await self._opener(model, submit, **more)
        except ApiError as error:
            self.room = _room(error)
            if self.room is None:
                raise
        sampling = msgspec.structs.replace(submit.sampling, max_tokens=self.room)
        return await self._opener(model, msgspec.structs.replace(submit, sampling=sampling), **more)


def _room(error: ApiError) -> int | None:
    """None: the prompt alone is too long, or it is another error."""
    if error.code != "context_length_exceeded" or error.param != "max_tokens":
        return None
    prompt, ceiling = error.details.get("prompt_tokens"), error.details.get("effective")
    if not isinstance(prompt, int) or not isinstance(ceiling, int) or prompt >= ceiling:
        return None
    return ceiling - prompt
