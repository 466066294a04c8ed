"""Named sessions of the prompt cache: of models that run from their engines, of all others from the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from appliance import wire
from appliance.errors import ApiError
from appliance.prompt_cache import sessions as stored
from appliance.supervisor.engine import Engine
from appliance.supervisor.pool import Engines

ANSWER_S = 30.0  # an engine answers between two steps, and a chunk of prompt may take a while


class Sessions:
    """root: `cache.path` as it is in force; None: not known yet."""

    def __init__(self, engines: Engines, root: Callable[[], Path | None]) -> None:
        self._engines, self._root = engines, root

    async def held(self) -> list[dict[str, Any]]:
        """The most recently used first. Raises ApiError where an engine does not answer."""
        live = self._live(None)
        answers = await asyncio.gather(*(_answer(engine, engine.asking.sessions()) for engine in live))
        found = _merged(
            _held(engine, session)
            for engine, told in zip(live, answers, strict=True)
            for session in told or []
        )
        running = {engine.order.model for engine, told in zip(live, answers, strict=True) if told is not None}
        root = self._root()
        if root is not None:
            lying = await asyncio.to_thread(_read, root)
            found += [_lying(one) for one in lying if one.session.model not in running]
        return sorted(found, key=lambda session: -float(session["used_at"]))

    async def drop(self, name: str | None, model: str | None) -> list[dict[str, Any]]:
        """Forget this session, or all; of this model, or of all. What was dropped. Raises ApiError."""
        live = self._live(model)
        answers = await asyncio.gather(*(_answer(engine, engine.asking.drop(name)) for engine in live))
        dropped = _merged(
            _held(engine, session)
            for engine, told in zip(live, answers, strict=True)
            for session in told or []
        )
        running = {engine.order.model for engine, told in zip(live, answers, strict=True) if told is not None}
        root = self._root()
        if root is not None:
            gone = await asyncio.to_thread(_delete, root, name, model, running)
            dropped += [_lying(one) for one in gone]
        return dropped

    def _live(self, model: str | None) -> list[Engine]:
        return [engine for engine in self._engines.loaded if model in (None, engine.order.model)]


async def _answer(engine: Engine, told: Awaitable[wire.Sessions]) -> list[wire.Session] | None:
    """None: it has ended meanwhile, and what it had lies on the disk."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return (await told).sessions
    except TimeoutError:
        text = f"{engine.id} has not told its sessions within {ANSWER_S:g} s; try again when it is less busy"
        raise ApiError("overloaded", text, retry_after=5.0) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return None


def _read(root: Path) -> list[stored.OnDisk]:
    try:
        return stored.on_disk(root)
    except OSError as error:
        raise ApiError("internal_error", f"the sessions under {root} cannot be read: {error}") from error


def _delete(root: Path, name: str | None, model: str | None, running: set[str]) -> list[stored.OnDisk]:
    try:
        there = {one.session.model for one in stored.on_disk(root)}
        idle = {one for one in there if one not in running and model in (None, one)}
        return stored.drop_on_disk(root, name, None, idle) if idle else []
    except OSError as error:
        raise ApiError("internal_error", f"the sessions under {root} cannot be dropped: {error}") from error


def _merged(sessions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two engines of one model share their files: a session is told once, as its newest engine has it."""
    newest: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    for session in sessions:
        at = session["model"], session["name"], session["key"]
        if at not in newest or session["used_at"] >= newest[at]["used_at"]:
            newest[at] = session
    return list(newest.values())


def _held(engine: Engine, session: wire.Session) -> dict[str, Any]:
    return _record(
        engine.order.model, session, loaded=True, memory=session.memory_bytes, disk=session.disk_bytes
    )


def _lying(one: stored.OnDisk) -> dict[str, Any]:
    return _record(one.session.model, one.session, loaded=False, memory=0, disk=one.nbytes)


def _record(
    model: str, session: wire.Session | stored.Session, *, loaded: bool, memory: int, disk: int
) -> dict[str, Any]:
    """key: the beginning of a hash of the API key it belongs to; None: everybody's."""
    return {
        "name": session.name,
        "model": model,
        "key": session.scope[:8] or None,
        "tokens": session.tokens,
        "used_at": session.used_at,
        "memory_bytes": memory,
        "disk_bytes": disk,
        "loaded": loaded,
    }
