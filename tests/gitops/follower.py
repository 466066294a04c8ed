"""The follower on its own, without a loop around it: real git, and the loader as the judge."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reconciler.events import EventType
from reconciler.gate import Parsed, SpecProblem
from reconciler.source_view import SourceView
from reconciler.sources.spec_source import SpecSource
from tests.gitops.remote import Remote

LIMIT_S = 60.0
GOOD = "version: 1\nactive: null\nmodels: {}\n"


class Follower:
    """A local file that follows `remote`; `look` is one look at it."""

    def __init__(
        self, folder: Path, remote: Remote, env: Mapping[str, str] | None = None, **git: Any
    ) -> None:
        self.folder, self.remote = folder, remote
        self.file = folder / "lmx.yaml"
        self.env = env or {}
        self.events: list[tuple[EventType, str]] = []
        self.says(**git)
        self._looked = asyncio.Event()
        self.start()

    def says(self, local: Mapping[str, Any] | None = None, **git: Any) -> None:
        """Write the local file."""
        settings = {"url": self.remote.url, "interval": "1h", **git}
        spec = {"version": 1, "active": None, "models": {}, "git": settings, **(local or {})}
        self.file.write_text(yaml.safe_dump(spec))

    def start(self, ran: bytes | None = None) -> None:
        """As a start of LMX does, with what the state folder holds."""
        self.source = SpecSource(self.file, self.env)
        self.source.follow(self.folder / "state", self._told, self._looked.set, lambda: False, ran=ran)

    def _told(self, kind: EventType, message: str, data: Mapping[str, Any]) -> None:
        self.events.append((kind, message))

    async def look(self) -> SourceView:
        """The view after one whole look."""
        self.source.read()
        self._looked.clear()
        stop = asyncio.Event()
        task = asyncio.ensure_future(self.source.run(lambda: None, stop))
        try:
            async with asyncio.timeout(LIMIT_S):
                await self._looked.wait()
        finally:
            stop.set()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.source.read()  # as the loop does, which was told of a change
        return self.source.view()

    def parsed(self) -> Parsed:
        """What the gate would make of it. Raises SpecProblem."""
        return self.source.parse(self.source.read().data)

    def name(self) -> str | None:
        return self.parsed().spec.name

    def problem(self) -> str:
        """Why the newest commit is refused."""
        refused = self.source.view().refused
        assert refused is not None
        return refused.message


__all__ = ["GOOD", "Follower", "SpecProblem"]
