"""`GET /admin/config?origins=true`: where each value in force comes from, and what bounds it now."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from appliance import status
from reconciler.loader import Loaded, SpecError, load_text
from reconciler.loader.origins import origins, tried_over
from reconciler.loop import Loop

_RESIDENCY = {"load": "loaded", "unload": "disk"}


class Effective:
    """path: of the spec file, for messages. Texts are parsed again where they changed."""

    def __init__(self, loop: Loop, path: Path) -> None:
        self._loop, self._path = loop, path
        self._made: tuple[tuple[bytes, ...], dict[str, dict[str, Any]]] = ((), {})

    async def told(self) -> dict[str, Any]:
        """origins: dotted path -> as `Origin.as_dict`. effective: what is in force instead of it, and why.

        in_force: the generation whose words these are, and whether something tried lies over it.
        """
        loop, tried = self._loop, self._loop.force.trial.tried
        file = loop.force.accepted
        texts = tuple(one.text for one in (file, tried) if one is not None)
        if self._made[0] != texts:
            self._made = (texts, await asyncio.to_thread(self._origins, texts))
        generation = file.generation if file is not None else None
        return {
            "origins": self._made[1],
            "effective": self._effective(),
            "in_force": {
                "generation": generation,
                "suspended": loop.force.suspended,
                "tried": tried is not None,
            },
        }

    def _origins(self, texts: tuple[bytes, ...]) -> dict[str, dict[str, Any]]:
        if not texts:
            return {}
        file = self._load(texts[0], self._path)
        tried = self._load(texts[1], Path("tried")) if len(texts) > 1 else None
        if file is None:
            return {}
        found = origins(file) if tried is None else tried_over(file, tried)
        return {path: origin.as_dict() for path, origin in found.items()}

    def _load(self, text: bytes, path: Path) -> Loaded | None:
        try:
            return load_text(text, path=path, env=os.environ)
        except SpecError:
            return None  # the environment has changed since it was accepted: its places are not known

    def _effective(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name, model in status.models(self._loop).items():
            for key in ("context", "concurrency"):
                bound = model[key]
                if bound["effective"] not in (None, bound["declared"]):
                    found[f"models.{name}.{key}"] = {"value": bound["effective"], "why": bound["why"]}
            asked = self._loop.desired.override(name)
            if asked in _RESIDENCY:
                why = f"override: lmx models {asked} {name}"
                found[f"models.{name}.residency"] = {"value": _RESIDENCY[asked], "why": why}
        return found
