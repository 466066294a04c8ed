"""What `lmx try`, `confirm`, `rollback` and `suspend` ask of a running appliance.

    text ─▶ parse ─▶ may a caller ask for this? ─▶ the loop holds it ─▶ first plan: can it run? ─▶ answer
              └─ invalid_request ─┴─ forbidden                              └─ the plan's own code

A text from a client is parsed and never opened as a path; what it may say is `reconciler.tryable`'s to judge.
A rollback takes its text from the history. Nothing here writes a file: answers carry the edit to make.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from appliance.edits import edit
from appliance.errors import ApiError
from reconciler import tryable
from reconciler.changes import Change, changes
from reconciler.gate import Accepted, Parsed
from reconciler.history import Generation
from reconciler.loader import Loaded, SpecError, load_text, tree
from reconciler.loader.checks import check
from reconciler.loader.problems import dotted
from reconciler.loop import Loop
from reconciler.spec import Spec

LONGEST = 2**20  # bytes of a tried text: a file has 256 KiB at most, with its bases more
SHORTEST_S = 1.0
FIRST_PLAN_S = 10.0
DENIED = "server.overrides is deny: this machine changes by its file only"


class Generations(Protocol):
    def generation(self, number: int) -> Generation | None:
        """Raises ApiError where the history cannot be read."""


class Trying:
    """until: waits until something holds, looked at after each pass of the loop. path: of the spec file."""

    def __init__(
        self,
        loop: Loop,
        path: Path,
        history: Generations,
        until: Callable[[Callable[[], bool], float, str], Awaitable[None]],
    ) -> None:
        self._loop, self._path, self._history, self._until = loop, path, history, until

    # --- looking -----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """`try`: what is tried now, with its text and the edit to the file; `ended`: how the last went."""
        short, tried, ending = self.short(), self._loop.force.trial.tried, self._loop.force.trial.ending
        if short is not None and tried is not None:
            text = tried.text
            short = {**short, "spec": text.decode("utf-8", "replace"), "diff": self._edit(text)}
        return {"try": short, "ended": vars(ending) if ending is not None else None}

    def short(self) -> dict[str, Any] | None:
        """As `/status` shows it. until: wall clock, seconds; None: it has no deadline."""
        trial = self._loop.force.trial
        tried, left = trial.tried, trial.left()
        if tried is None:
            return None
        return {
            "what": tried.what,
            "by": tried.by,
            "at": tried.at,
            "until": trial.until(),
            "left_s": None if left is None else max(0.0, round(left, 1)),
            "confirmed": left is None,
            "reached": tried.reached,
            "digest": tried.digest,
            "generation": tried.file.generation,
            "changes": [vars(change) for change in tried.changes],
        }

    def overrides(self) -> list[dict[str, Any]]:
        """All that lies over the file, as `/status` shows it. generation: what a suspension holds."""
        held = self._loop.force.accepted
        found: list[dict[str, Any]] = [
            {
                "kind": o.kind,
                "model": o.model or None,
                "by": o.by or None,
                "at": o.at,
                "until": o.until or None,
            }
            for o in self._loop.force.overrides
        ]
        for one in found:
            if one["kind"] == "suspend":
                one["generation"] = held.generation if held is not None else None
        tried = self.short()
        if tried is not None:
            found.append({"kind": "try", "model": None, **{k: tried[k] for k in ("by", "at", "until")}})
        return found

    # --- try -----------------------------------------------------------------------------------------

    async def begin(self, text: str, name: str, seconds: float, by: str) -> dict[str, Any]:
        """name: of the client's file, for messages. Returns when the first plan has been made."""
        file = self._ready(seconds)
        data = text.encode("utf-8", "surrogatepass")
        if len(data) > LONGEST:
            raise ApiError(
                "invalid_request", f"spec: at most {LONGEST} bytes, found {len(data)}", param="spec"
            )
        loaded = await asyncio.to_thread(_parse, data, Path(name))
        spec, kept = _with_the_files(file.spec, loaded)
        _refuse(tryable.refusals(file.spec, spec), "it cannot be tried")
        return await self._begin(spec, loaded.digest, data, file, seconds, "a try", by, kept)

    async def confirm(self, by: str) -> dict[str, Any]:
        """Take away the deadline, and say which edit keeps it for good."""
        self._allowed()
        if self._loop.force.trial.tried is None:
            raise ApiError(
                "not_found", f"nothing is tried now, so there is nothing to confirm{self._before()}"
            )
        self._loop.force.trial.confirm(by)
        self._loop.poke()
        return {"success": True, **self.state()}

    def end(self, by: str) -> dict[str, Any]:
        self._allowed()
        return {"success": True, "cleared": int(self._loop.force.trial.end(f"ended by {by}"))}

    # --- rollback --------------------------------------------------------------------------------------

    def rollback_of(self, number: int | None) -> dict[str, Any]:
        """What a rollback would do: the edit, what differs, and what of it only the file can take back."""
        target, spec, left = self._target(number)
        return self._told(target, spec, left)

    async def roll_back(self, number: int | None, seconds: float, by: str) -> dict[str, Any]:
        """The same, and in force as a try; `try` is None where it is what runs already."""
        file = self._ready(seconds)
        target, spec, left = self._target(number)
        told = self._told(target, spec, left)
        if spec == self._loop.force.spec:
            return {"success": True, **told, **self.state()}
        _refuse(
            [*tryable.newly_trusted(file.spec, spec), *_contradictions(spec)],
            f"generation {target.generation} cannot be tried",
        )
        what = f"a rollback to generation {target.generation}"
        begun = await self._begin(spec, target.digest, target.text, file, seconds, what, by, ())
        return {**begun, **told}

    def _target(self, number: int | None) -> tuple[Accepted, Spec, tuple[Change, ...]]:
        """The generation, what may be tried of it, and what may not."""
        newest, good = self._loop.gate.accepted, self._loop.good
        if newest is None:
            raise ApiError("not_found", "no spec has ever been accepted, so there is nothing to go back to")
        if number is None:
            if good is None:
                raise ApiError(
                    "not_found", "no generation has ever reached Ready; `lmx history` lists them all"
                )
            target = good
        else:
            target = self._generation(number)
        if target.generation == newest.generation and not self._file_is_refused():
            good_too = ", and the last-known-good" if number is None else ""
            hint = "name another one: `lmx history` lists them"
            if self._loop.force.trial.tried is not None:
                hint = "`lmx try --end` goes back to it"
            same = f"generation {target.generation} is what the file says{good_too}"
            raise ApiError("not_found", f"nothing to roll back: {same}; {hint}")
        spec, left = tryable.carried_over(newest.spec, target.spec)
        return target, spec, left

    def _file_is_refused(self) -> bool:
        attempt = self._loop.gate.attempt
        return attempt is not None and attempt.outcome == "rejected"

    def _generation(self, number: int) -> Accepted:
        for known in (self._loop.gate.accepted, self._loop.good):
            if known is not None and known.generation == number:
                return known
        found = self._history.generation(number)
        if found is None:
            text = f"there is no generation {number} in the history; `lmx history` lists those that are kept"
            raise ApiError("not_found", text, param="generation")
        try:
            loaded = load_text(found.text, path=self._path, env=os.environ)
        except SpecError as error:
            raise ApiError(
                "invalid_request", f"generation {number} can no longer be used: {error}", param="generation"
            ) from error
        return Accepted(loaded.spec, found.digest, number, found.content_digest, found.text)

    def _told(self, target: Accepted, spec: Spec, left: tuple[Change, ...]) -> dict[str, Any]:
        newest = self._loop.gate.accepted
        assert newest is not None
        return {
            "generation": target.generation,
            "from_generation": newest.generation,
            "diff": self._edit(target.text),
            "changes": [vars(change) for change in changes(newest.spec, spec)],
            "left_out": [vars(change) for change in left],
            "in_force": spec == self._loop.force.spec,
        }

    # --- suspend ---------------------------------------------------------------------------------------

    async def suspend(self, by: str) -> dict[str, Any]:
        self._allowed()
        if self._loop.force.trial.tried is not None:
            raise ApiError(
                "forbidden",
                "a spec is tried now, and a suspension would keep it beyond its time; end it with "
                "`lmx try --end`, or save it in the file, and then suspend",
            )
        self._loop.force.suspend(by)
        await self._passed("the suspension")
        return {"success": True, "suspended": True, "held_back": self._loop.force.held_back}

    async def resume(self) -> dict[str, Any]:
        """suspended: still, because the file says so."""
        self._allowed()
        cleared = self._loop.force.clear("", ("suspend",))
        if cleared:
            await self._passed("the end of the suspension")
        return {"success": True, "cleared": cleared, "suspended": self._loop.force.suspended}

    # --- inside ----------------------------------------------------------------------------------------

    def _allowed(self) -> None:
        if self._loop.force.spec.server.overrides == "deny":
            raise ApiError("managed_by_file", DENIED)

    def _ready(self, seconds: float) -> Accepted:
        """The file's spec, which a try lies over. Raises ApiError where none may begin."""
        self._allowed()
        if seconds < SHORTEST_S:
            raise ApiError(
                "invalid_request", f"for: at least {SHORTEST_S:g} s, found {seconds:g}", param="for"
            )
        if self._loop.force.suspended:
            how = "suspend: false in the file" if self._loop.force.file.suspend else "`lmx resume`"
            raise ApiError("forbidden", f"LMX is suspended and changes nothing; {how} ends that")
        if self._loop.gate.accepted is None:
            raise ApiError(
                "forbidden", "no file has ever been valid here, so there is nothing to come back to"
            )
        return self._loop.gate.accepted

    async def _begin(
        self, spec: Spec, digest: str, text: bytes, file: Accepted, seconds: float, what: str, by: str,
        kept: tuple[Change, ...],
    ) -> dict[str, Any]:  # fmt: skip
        if spec == self._loop.force.spec:
            raise ApiError(
                "invalid_request", "this is what is in force already: nothing to try", param="spec"
            )
        if spec == file.spec:
            raise ApiError(
                "invalid_request", "this is what the file says; `lmx try --end` goes back to it", param="spec"
            )
        begun = self._loop.force.try_out(Parsed(spec, digest), text, seconds, what, by, self._loop.plan)
        await self._passed("the first plan for it")
        trial = self._loop.force.trial
        if trial.tried is None and trial.ending is not None:
            raise ApiError(trial.ending.code or "model_swapping", f"it was refused: {trial.ending.why}")
        if trial.tried is None or trial.tried.at != begun.at:
            raise ApiError("model_swapping", "another try has taken its place", retry_after=1.0)
        return {"success": True, **self.state(), "kept": [vars(change) for change in kept]}

    async def _passed(self, what: str) -> None:
        await self._until(lambda: True, FIRST_PLAN_S, what)

    def _edit(self, wanted: bytes) -> list[str]:
        """From what the file says now, also where that was refused."""
        gate = self._loop.gate
        now = gate.accepted.text if gate.accepted is not None else b""
        if self._file_is_refused() and gate.attempt is not None:
            now = gate.attempt.text or now
        return list(edit(now, wanted, self._path.name))

    def _before(self) -> str:
        ending = self._loop.force.trial.ending
        if ending is None:
            return ""
        return f"; the last try ended {max(0.0, time.time() - ending.at):.0f} s ago: {ending.why}"


def _parse(data: bytes, path: Path) -> Loaded:
    try:
        return load_text(data, path=path, env=os.environ)
    except SpecError as error:
        raise ApiError("invalid_request", f"the spec has errors:\n{error}", param="spec") from error


def _with_the_files(file: Spec, loaded: Loaded) -> tuple[Spec, tuple[Change, ...]]:
    """The tried spec, with what it does not mention and only the file may say; and what that is.

    So a file of a repository can be tried without the local file that lies below it.
    """
    spec, differs = tryable.carried_over(file, loaded.spec)
    mentioned = [c for c in differs if _holds(loaded.root, c.path)]
    if mentioned:
        return loaded.spec, ()  # refused in full, by name
    return spec, differs


def _holds(root: tree.Mapping, path: str) -> bool:
    return tree.holds(root, tuple(path.split(".")))


def _contradictions(spec: Spec) -> list[str]:
    return [f"{dotted(found.locs[0])}: {found.message}" for found in check(spec) if not found.warning]


def _refuse(why: list[str], what: str) -> None:
    if why:
        raise ApiError("forbidden", f"{what}:\n" + "\n".join(why), param="spec")
