"""The folder of the disk cache, seen from the parent. Engines write there, and say so if they cannot.

What is found here is told before any engine runs. It keeps nothing from being served.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from reconciler import names
from reconciler.spec import Model, Spec

AGAIN_S = 60.0  # a folder that could not be used is looked at again after this long


class CacheFolder:
    """base: where relative paths of the spec start. `cache.path` counts as it is at the start."""

    def __init__(self, spec: Spec, base: Path) -> None:
        self._base = base
        self.path = base / Path(spec.cache.path).expanduser()
        self._problem: str | None = None
        self._looked: float | None = None

    def problem(self, spec: Spec) -> str | None:
        """Why it cannot be used, in words; None where it can, or where the disk is not used."""
        if spec.cache.disk == 0:
            return None
        now = time.monotonic()
        stale = self._looked is None or (self._problem is not None and now - self._looked >= AGAIN_S)
        if stale:
            self._looked, self._problem = now, self._look(spec.models.values())
        return self._problem

    def _look(self, models: Iterable[Model]) -> str | None:
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            real = self.path.resolve()
        except OSError as error:
            return f"cache.path {self.path} cannot be made: {error.strerror or error}"
        if not os.access(real, os.R_OK | os.W_OK | os.X_OK):
            return f"cache.path {self.path} cannot be written by this user"
        for model in models:
            for source in (model.source, model.adapter):
                if source is not None and names.is_local(source):
                    folder = (self._base / Path(source).expanduser()).resolve()
                    if real.is_relative_to(folder):
                        return f"cache.path {self.path} leads into a model's folder, {folder}"
        return None
