"""A local file and the files it extends: read together, watched together.

A base lies inside the repository that holds the file (the nearest folder above with a `.git`), so that what
CI checks is what a machine that follows the repository takes; outside of one, in the file's own folder or
below it. Links are followed, as for the file itself: whoever owns the folder made them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from reconciler.loader import layers
from reconciler.loader.layers import Layer, NoBase
from reconciler.sources.file import POLL_S, Content, FileSource, SourceError


class LocalSource:
    """One file, by the path the user gave, and its bases."""

    def __init__(self, path: Path, *, poll_s: float = POLL_S) -> None:
        self.path = path
        self._poll_s = poll_s
        self._files = {path: FileSource(path, poll_s=poll_s)}
        self._changed = asyncio.Event()  # the set of files is another one

    def layers(self) -> tuple[Layer, ...]:
        """The files now, lowest first. Raises SourceError where the file itself cannot be read."""
        top = self._files[self.path].read().data
        used = {self.path}

        def base(name: str, said: str) -> tuple[str, bytes]:
            near = base_of(self.path, name, said)
            path = self.path.parent / near
            used.add(path)
            source = self._files.setdefault(path, FileSource(path, poll_s=self._poll_s))
            try:
                return near, source.read().data
            except SourceError as error:
                raise NoBase(str(error)) from error

        before = set(self._files)
        found = layers.chain(self.path.name, top, "local", base)
        self._files = {path: source for path, source in self._files.items() if path in used}
        if set(self._files) != before:
            self._changed.set()
        return tuple(found)

    def read(self) -> Content:
        """All of them as one content, the same wherever the folder lies. Raises SourceError."""
        data = layers.pack(self.layers())
        digest = hashlib.sha256(data).hexdigest()
        return Content(data, digest, Path(os.path.realpath(self.path)))

    async def watch(self, on_change: Callable[[], None], stop: asyncio.Event) -> None:
        """Call `on_change` after each change of one of them, until `stop` is set."""
        while not stop.is_set():
            self._changed.clear()
            tasks = [asyncio.ensure_future(source.watch(on_change, stop)) for source in self._files.values()]
            waiting = [asyncio.ensure_future(event.wait()) for event in (self._changed, stop)]
            try:
                done, _ = await asyncio.wait([*tasks, *waiting], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a watch that failed is told, not lost
            finally:
                for task in (*tasks, *waiting):
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.gather(*tasks, return_exceptions=True)


def base_of(top: Path, name: str, said: str) -> str:
    """The path, from the folder of `top`, of the base that the file `name` names; `name` counts from there
    too. Raises NoBase where it leads out."""
    if said.startswith(("/", "~")):
        raise NoBase("write the path of a base from the file that extends it, like ../base.yaml")
    near = os.path.normpath(os.path.join(os.path.dirname(name), said))
    inside = _inside(top)
    if not Path(os.path.abspath(top.parent / near)).is_relative_to(inside):
        raise NoBase(f"{said} leads out of {inside}; a base lies inside the repository or folder of its file")
    return near


def _inside(path: Path) -> Path:
    folder = Path(os.path.abspath(path)).parent
    return next((above for above in (folder, *folder.parents) if (above / ".git").exists()), folder)
