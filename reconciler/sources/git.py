"""Following a branch: look, choose, take. What runs is never disturbed by a look that fails.

    interval ± a tenth ─┐
    lmx reconcile, HUP ─┼─▶ look at the remote ─▶ as last time? ─▶ fetch ─▶ choose ─▶ taken.json ─▶ poke
    local file changed ─┘      │ fails: SourceReady=False, since; again, soon at first      (the loop reads)

`taken.json` beside the clone says which commit was taken, and is written whole before the commit counts. A
restart reads that commit out of the clone, without the network; where the clone is gone, the history has
what ran. A new `git.url` or `git.ref` in the local file starts afresh: whoever owns the machine said so.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.events import EventType
from reconciler.loader import layers
from reconciler.loader.layers import Layer, NoBase
from reconciler.source_view import SourceView, Trouble
from reconciler.sources.choosing import Choice, Refusal, choose
from reconciler.sources.git_process import GitError, address
from reconciler.sources.repository import Repository, Signature

log = logging.getLogger("lmx.git")

FIRST_RETRY_S = 5.0  # after a look that failed; doubles up to the interval
TIDY_EVERY = 200  # commits taken

Tell = Callable[[EventType, str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Settings:
    """`git` of the local file. signers: the allowed_signers file; None: signatures are not asked for."""

    url: str
    ref: str = "main"
    path: str = "lmx.yaml"
    interval_s: float = 60.0
    fast_forward_only: bool = True
    signers: Path | None = None

    @property
    def key(self) -> str:
        """What a commit that was taken belongs to: of another branch, it says nothing about this one."""
        return hashlib.sha256(json.dumps([self.url, self.ref]).encode()).hexdigest()

    @property
    def pinned(self) -> bool:
        return re.fullmatch(r"[0-9a-f]{40}", self.ref) is not None


@dataclass(frozen=True)
class Taken:
    """The commit that runs, what it says at `path`, and whose signature it has."""

    commit: str
    path: str
    layers: tuple[Layer, ...]
    signature: Signature | None


class GitSource:
    """folder: where clones lie. judge: of a commit's layers, what is wrong with them; None: they stand.

    tell: for events. changed: called where `taken` or the view did. Owned by one event loop; all but
    `run` and `restore` return at once.
    """

    def __init__(
        self,
        folder: Path,
        judge: Callable[[Sequence[Layer]], str | None],
        tell: Tell,
        changed: Callable[[], None],
        *,
        held: Callable[[], bool] = lambda: False,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._judge, self._tell, self._changed = folder, judge, tell, changed
        self._held, self._wall = held, wall
        self.settings: Settings | None = None
        self.taken: Taken | None = None
        self.remembered: str | None = None  # the commit that was taken last, also where the clone is gone
        self.refused: Refusal | None = None
        self.counts: Counter[str] = Counter({"unchanged": 0, "taken": 0, "refused": 0, "failed": 0})
        self._around = b""  # what else decides whether a commit stands: the local layers
        self._seen: tuple[Settings, bytes, str] | None = None  # of the last look that came to an end
        self._head: str | None = None
        self._refused_at = 0.0
        self._failed: Trouble | None = None
        self._failures = 0
        self._checked: float | None = None
        self._poked = asyncio.Event()

    # --- from outside --------------------------------------------------------------------------------

    def configure(self, settings: Settings | None, around: bytes) -> None:
        """What the local file says now. Cheap where nothing changed."""
        if settings == self.settings and around == self._around:
            return
        before, self.settings, self._around = self.settings, settings, around
        if settings is None or before is None or settings.key != before.key:
            self._head = self._seen = self._failed = self._checked = self.refused = None
            self._failures = 0
            self.remembered = self._recall(settings) if settings is not None else None
        if settings is None:
            self.taken = None
        self.poke()

    def poke(self) -> None:
        """Look now."""
        self._poked.set()

    def view(self) -> SourceView | None:
        """None where no repository is followed."""
        settings, taken = self.settings, self.taken
        if settings is None:
            return None
        signature = taken.signature if taken is not None else None
        refused = self.refused
        return SourceView(
            kind="git",
            path=settings.path,
            revision=taken.commit if taken is not None else self.remembered,
            head=self._head,
            url=address(settings.url),
            ref=settings.ref,
            verified=None
            if settings.signers is None or taken is None
            else bool(signature and signature.signer),
            signer=signature.signer if signature is not None else None,
            asks_signature=settings.signers is not None,
            looks=tuple(self.counts.items()),
            last_checked=self._checked,
            failed=self._failed,
            refused=Trouble(refused.reason, refused.message, self._refused_at)
            if refused is not None
            else None,
        )

    async def restore(self) -> None:
        """After a start, or where this LMX takes over from another: read the commit that was taken out of the
        clone. The network is not asked."""
        settings = self.settings
        if settings is not None:
            self.remembered = self._recall(settings) or self.remembered
        if settings is None or self.remembered is None:
            return
        repository = self._repository(settings)
        try:
            if repository.folder.is_dir():
                await self._keep(repository, settings, self.remembered, new=False)
        except (GitError, NoBase, OSError) as error:
            log.warning("commit %s cannot be read from the clone: %s", self.remembered[:12], error)

    async def run(self, stop: asyncio.Event) -> None:
        """Looks until `stop` is set."""
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                self._poked.clear()
                if self.settings is not None and not self._held():
                    await self._guarded_look(self.settings)
                poked = asyncio.ensure_future(self._poked.wait())
                try:
                    pause = self._pause()
                    await asyncio.wait({poked, stopping}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    poked.cancel()
        finally:
            stopping.cancel()

    # --- a look --------------------------------------------------------------------------------------

    def _pause(self) -> float | None:
        if self.settings is None:
            return None
        most = self.settings.interval_s
        if self._failures:
            most = min(most, FIRST_RETRY_S * 2.0 ** min(self._failures - 1, 16))
        return most * random.uniform(0.9, 1.1)  # so that a fleet does not ask all at once

    async def _guarded_look(self, settings: Settings) -> None:
        """A fault of ours in a look is told and tried again: it must not end the appliance."""
        try:
            await self._look(settings)
        except Exception as error:
            log.exception("a look at %s failed", address(settings.url))
            self._failures += 1
            self.counts["failed"] += 1
            since = self._failed.since if self._failed is not None else self._wall()
            self._failed = Trouble("InternalError", f"{type(error).__name__}: {error}", since)
            self._changed()

    async def _look(self, settings: Settings) -> None:
        around, repository = self._around, self._repository(settings)
        try:
            await repository.open()
            outcome = await self._follow(repository, settings, around)
        except (GitError, NoBase, OSError) as error:
            await self._fail(repository, settings, error)
            return
        if self.settings is not settings or outcome is None:
            return  # said anew while this look was under way: another one is due, and finds that
        self.counts[outcome] += 1
        self._checked, self._failures = self._wall(), 0
        if self._failed is not None:
            self._failed = None
            self._tell(EventType.SOURCE_RECOVERED, f"{address(settings.url)} answers again", {})
        self._changed()

    async def _follow(self, repository: Repository, settings: Settings, around: bytes) -> str | None:
        """taken, refused or unchanged; None where the settings changed meanwhile."""
        noted = self._recall(settings)
        if noted is not None and noted != self.remembered and await repository.has(noted):
            await self._keep(repository, settings, noted, new=False)  # by another LMX of this state folder
        if settings.pinned:
            name = mark = settings.ref
        else:
            name, mark = await repository.remote(settings.ref)
        if self._seen == (settings, around, mark):
            return "unchanged"
        head = await (repository.fetch_commit(name) if settings.pinned else repository.fetch(name))
        current = self.remembered
        relation = await repository.relation(current, head)
        line = await repository.line(current if relation == "after" else None, head)
        if relation == "same" and not self._stands(settings, around):
            current, line = None, [head]  # the same commit, asked anew: another path, signer or local layer
            relation = "elsewhere"
        elif relation == "elsewhere" and current is not None:
            line = [head]  # somebody rewrote the branch, and means this one
        choice = await self._choice(repository, settings, current, relation, line)
        if self.settings is not settings or self._around != around:
            return None
        new = choice.take is not None and choice.take != self.remembered
        if choice.take is not None:
            await self._keep(repository, settings, choice.take, new=new)
        self._head = head
        self._refuse(choice.refused)
        self._seen = (settings, around, mark)
        return "refused" if choice.refused is not None else "taken" if new else "unchanged"

    def _stands(self, settings: Settings, around: bytes) -> bool:
        """Whether what was taken was taken under what is said now."""
        before = self._seen
        if self.taken is None or before is None or self.refused is not None:
            return False
        return (before[0].path, before[0].signers, before[1]) == (settings.path, settings.signers, around)

    async def _choice(
        self, repository: Repository, settings: Settings, current: str | None, relation: Any, line: list[str]
    ) -> Choice:
        deciding = choose(current, relation, line, fast_forward_only=settings.fast_forward_only)
        try:
            commit = next(deciding)
            while True:
                on_the_line = relation != "after" or await repository.relation(current, commit) == "after"
                commit = deciding.send(
                    await self._refusal(repository, settings, commit)
                    if on_the_line
                    else Refusal(commit, "NotFastForward", f"{commit[:12]} does not come after what runs")
                )
        except StopIteration as stop:
            found: Choice = stop.value
            return found

    async def _refusal(self, repository: Repository, settings: Settings, commit: str) -> Refusal | None:
        """Why this commit may not run; None: it may."""
        if settings.signers is not None:
            found = await repository.signature(commit, settings.signers)
            if found.signer is None:
                return Refusal(commit, "NotVerified", f"commit {commit[:12]} is not taken: {found.why}")
        try:
            said = await repository.layers(commit, settings.path)
        except NoBase as error:
            return Refusal(commit, "PathMissing", f"commit {commit[:12]} is not taken: {error}; see git.path")
        problem = await asyncio.to_thread(self._judge, said)
        if problem is None:
            return None
        return Refusal(commit, "SpecInvalid", f"commit {commit[:12]}: {problem}", layers.pack(said))

    async def _keep(self, repository: Repository, settings: Settings, commit: str, *, new: bool) -> None:
        """This commit runs from now on."""
        said = await repository.layers(commit, settings.path)
        signature = (
            await repository.signature(commit, settings.signers) if settings.signers is not None else None
        )
        if new:
            await repository.keep(commit)
            self._remember(settings, commit)
            self._tell(
                EventType.COMMIT_TAKEN,
                f"{commit[:12]} of {settings.ref} is taken"
                + (f", signed by {signature.signer}" if signature else ""),
                {"commit": commit, "ref": settings.ref, "before": self.remembered},
            )
        self.remembered = commit
        self.taken = Taken(commit, settings.path, tuple(said), signature)
        if new and self.counts["taken"] % TIDY_EVERY == TIDY_EVERY - 1:
            await repository.tidy()

    def _refuse(self, refused: Refusal | None) -> None:
        if refused is not None and refused != self.refused:
            self._refused_at = self._wall()
            about = {"commit": refused.commit, "reason": refused.reason}
            self._tell(EventType.COMMIT_REFUSED, refused.message, about)
        self.refused = refused

    async def _fail(
        self, repository: Repository, settings: Settings, error: GitError | NoBase | OSError
    ) -> None:
        if self.settings is not settings:
            return
        usual = "PathMissing" if isinstance(error, NoBase) else "GitFailed"
        reason = error.reason if isinstance(error, GitError) else usual
        if reason == "GitFailed" and self._failures:
            repository.throw_away()  # the clone itself, twice in a row: the next look makes a new one
        self._failures += 1
        self.counts["failed"] += 1
        before = self._failed
        self._failed = Trouble(reason, str(error), before.since if before is not None else self._wall())
        if before is None or before.reason != reason:
            self._tell(EventType.SOURCE_FAILED, str(error), {"reason": reason})
        self._changed()

    # --- on disk -------------------------------------------------------------------------------------

    def _place(self, settings: Settings) -> Path:
        return self._folder / hashlib.sha256(settings.url.encode()).hexdigest()[:16]

    def _repository(self, settings: Settings) -> Repository:
        return Repository(self._place(settings) / "clone.git", settings.url)

    def _recall(self, settings: Settings) -> str | None:
        file = self._place(settings) / "taken.json"
        try:
            note = json.loads(file.read_text(encoding="utf-8"))
            commit = note["commit"] if note["key"] == settings.key else None
            return commit if isinstance(commit, str) else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be read: %s", file, error)
            return None

    def _remember(self, settings: Settings, commit: str) -> None:
        """Whole or not at all. Clones of repositories that are no longer followed go."""
        place = self._place(settings)
        new = place / f"taken.{os.getpid()}"
        with new.open("w", encoding="utf-8") as file:
            json.dump({"key": settings.key, "commit": commit, "at": self._wall()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, place / "taken.json")
        with contextlib.suppress(OSError):
            for other in self._folder.iterdir():
                if other != place:
                    shutil.rmtree(other, ignore_errors=True)
