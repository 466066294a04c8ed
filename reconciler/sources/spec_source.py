"""Where the spec comes from, as the gate and the loop see it: a local file, or Git laid over one.

    local file + bases ─┬─ git: null ─▶ content
                        └─ git: {...} ─▶ + the file and bases of the commit that was taken ─▶ content

The local file is the lowest layer. Until a first commit was taken it alone is what runs; after that a
commit runs, also offline and over a restart. `git` and `state.path` are read from local files only.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reconciler.events import EventType
from reconciler.gate import Parsed, Refused, SourceProblem, SpecProblem
from reconciler.kinds import FROM_FILE
from reconciler.loader import SpecError, environment, layers, load_text, tree
from reconciler.loader.layers import Layer
from reconciler.source_view import SourceView
from reconciler.sources.choosing import Refusal
from reconciler.sources.file import Content, SourceError
from reconciler.sources.git import GitSource, Settings
from reconciler.sources.git_process import address
from reconciler.sources.local import LocalSource
from reconciler.spec import Git, Spec

Tell = Callable[[EventType, str, Mapping[str, Any]], None]


class SpecSource:
    """path: of the local file. env: what `${LMX_*}` is replaced from."""

    def __init__(self, path: Path, env: Mapping[str, str]) -> None:
        self.path = path
        self._env = env
        self._local = LocalSource(path)
        self._git: GitSource | None = None
        self._below: tuple[bytes, Settings | None] = b"", None
        self._layers: tuple[Layer, ...] = ()
        self._ran_git = False
        self._read_commit: str | None = None  # the one that the gate has been given

    # --- for the gate --------------------------------------------------------------------------------

    def read(self) -> Content:
        """The content now, at once: nobody waits for the network here. Raises SourceProblem."""
        local, packed = self._read_local()
        settings = self._settings(local, packed)
        self._layers = local
        git = self._git
        if git is None:
            return self._content(packed)
        git.configure(settings, packed)
        self._read_commit = git.taken.commit if git.taken is not None and settings is not None else None
        if settings is None:
            return self._content(packed)
        if git.taken is not None:
            packed = layers.pack((*local, *git.taken.layers))
        elif self._ran_git or git.remembered is not None:
            raise SourceProblem(
                f"the clone of {address(settings.url)} is gone, and nothing was fetched yet; what ran goes on"
            )
        return self._content(packed, _told(git.refused) if git.refused is not None else None)

    def parse(self, data: bytes) -> Parsed:
        """Raises SpecProblem."""
        try:
            loaded = load_text(data, path=self.path, env=self._env)
        except SpecError as error:
            raise SpecProblem(str(error)) from error
        return Parsed(loaded.spec, loaded.digest, loaded.warnings)

    # --- for the appliance ---------------------------------------------------------------------------

    def local_spec(self) -> Spec | None:
        """What the local files alone say; None where they are not valid."""
        try:
            return self.parse(self._read_local()[1]).spec
        except (SourceProblem, SpecProblem):
            return None

    def follow(
        self,
        folder: Path,
        tell: Tell,
        changed: Callable[[], None],
        held: Callable[[], bool],
        *,
        ran: bytes | None,
    ) -> None:
        """From now on Git counts. folder: the state folder. ran: the content that ran before this start."""
        self._git = GitSource(folder / "git", self._judge, tell, changed, held=held)
        self._ran_git = ran is not None and layers.from_git(ran)

    async def restore(self) -> None:
        """Once before the first pass: the commit that ran is there again."""
        if self._git is None:
            return
        with contextlib.suppress(SourceProblem):  # the first pass, which is next, finds and tells the same
            self.read()
        await self._git.restore()

    async def run(self, changed: Callable[[], None], stop: asyncio.Event) -> None:
        """Watch the local files and follow the repository until `stop` is set."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._local.watch(changed, stop))
            if self._git is not None:
                tasks.create_task(self._git.run(stop))

    def poke(self) -> None:
        """Look at the remote now."""
        if self._git is not None:
            self._git.poke()

    def view(self) -> SourceView:
        """revision is what the gate was given, so that nobody reads it beside conditions of before."""
        found = self._git.view() if self._git is not None else None
        if found is None:
            return SourceView("file", str(self.path))
        return replace(found, revision=self._read_commit or found.revision)

    @property
    def counts(self) -> Mapping[str, int]:
        """Looks at the remote, by how they ended; empty where none is followed."""
        return self._git.counts if self._git is not None and self._git.settings is not None else {}

    # --- inside --------------------------------------------------------------------------------------

    def _read_local(self) -> tuple[tuple[Layer, ...], bytes]:
        try:
            local = self._local.layers()
        except SourceError as error:
            raise SourceProblem(str(error)) from error
        return local, layers.pack(local)

    def _content(self, data: bytes, refused: Refused | None = None) -> Content:
        return Content(data, hashlib.sha256(data).hexdigest(), Path(os.path.realpath(self.path)), refused)

    def _settings(self, local: Sequence[Layer], packed: bytes) -> Settings | None:
        """`git` of the local files; while they are broken, as they said before."""
        if packed != self._below[0]:
            try:
                self._below = packed, settings_of(local, self.path, self._env)
            except ValueError:
                self._below = packed, self._below[1]  # the gate tells of it: it parses the same bytes
        return self._below[1]

    def _judge(self, said: Sequence[Layer]) -> str | None:
        try:
            self.parse(layers.pack((*self._layers, *said)))
        except SpecProblem as problem:
            return str(problem)
        return None


def _told(refusal: Refusal) -> Refused:
    digest = hashlib.sha256(refusal.content).hexdigest() if refusal.content else refusal.commit
    return Refused(digest, refusal.message, refusal.content, invalid=refusal.reason == "SpecInvalid")


def settings_of(local: Sequence[Layer], path: Path, env: Mapping[str, str]) -> Settings | None:
    """`git` of local files, whatever else they say. Raises ValueError where it is not valid."""
    try:
        found, faults = layers.trees(local, path)
    except tree.Unreadable as error:
        raise ValueError(str(error)) from error
    said = environment.substitute(layers.merged(found), env, faults).get("git")
    if any(fault.loc[:1] in ((), ("git",)) for fault in faults):
        raise ValueError("git cannot be read")
    if said is None:
        return None
    try:
        git = Git.model_validate(said, context=FROM_FILE)
    except ValidationError as error:
        raise ValueError(str(error)) from error
    signers = git.verify.allowed_signers if git.verify is not None else None
    return Settings(
        url=str(git.url),
        ref=str(git.ref),
        path=str(git.path),
        interval_s=git.interval,
        fast_forward_only=git.fast_forward_only,
        signers=None if signers is None else path.absolute().parent / Path(signers).expanduser(),
    )
