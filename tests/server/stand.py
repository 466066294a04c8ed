"""Stand-ins at the two seams of the server: the control, and, where no engine is needed, the router."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from appliance import wire
from appliance.access.desk import Access
from appliance.errors import ApiError
from appliance.supervisor.generation import Delta, merged
from appliance.supervisor.record import NOBODY, Caller
from reconciler.spec import Spec


def spec(**server: Any) -> Spec:
    return Spec.model_validate(
        {"version": 1, "active": "demo", "models": {"demo": {"source": "x/y"}}, "server": server}
    )


class Answer:
    """A generation whose deltas are written down beforehand, or put in while it is read."""

    def __init__(self, deltas: list[Delta | ApiError] | None = None, *, bounded: bool = True) -> None:
        self.model = "demo"
        self.engine_id = "demo-1"
        self.prompt_tokens = 5
        self.cached_tokens = 2
        self.bounded = bounded
        self.queue: asyncio.Queue[Delta | ApiError] = asyncio.Queue()
        self.cancelled = asyncio.Event()
        self._over = False
        for delta in deltas or ():
            self.queue.put_nowait(delta)

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Delta:
        if self._over:
            raise StopAsyncIteration
        delta = await self.queue.get()
        if isinstance(delta, ApiError):
            raise delta
        self._over = delta.finish is not None
        return delta

    async def collect(self) -> Delta:
        text, last, mores = "", None, []
        async for delta in self:
            text, last = text + delta.text, delta
            mores += [] if delta.more is None else [delta.more]
        assert last is not None
        return Delta(text, last.tokens, last.finish, last.stop, merged(mores) if mores else None)

    def cancel(self) -> None:
        self.cancelled.set()

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()


def said(*texts: str, finish: wire.Finish = "stop") -> list[Delta | ApiError]:
    deltas: list[Delta | ApiError] = [Delta(text, i + 1) for i, text in enumerate(texts)]
    return [*deltas, Delta("", len(texts) + 1, finish)]


class Desk:
    """A router that answers each request by `answer`, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, wire.Submit]] = []
        self.answers: list[Answer] = []
        self.answer: Callable[[int], Answer] = lambda _: Answer(said("Hello", " there"))
        self.abandoned = asyncio.Event()
        self.checked: list[Caller] = []
        self.noted: list[tuple[Caller, str]] = []
        self.callers: list[Caller] = []
        self.full: ApiError | None = None  # what every request is refused with before its body is read
        self.hold: asyncio.Event | None = None  # requests wait here before they are accepted

    def check(self, caller: Caller) -> None:
        self.checked.append(caller)
        if self.full is not None:
            self.full.recorded = True
            raise self.full

    def note(self, caller: Caller, code: str) -> None:
        self.noted.append((caller, code))

    async def open(
        self,
        model: str | None,
        submit: wire.Submit,
        *,
        bounded: bool = True,
        caller: Caller = NOBODY,
        beside: Answer | None = None,
    ) -> Answer:
        self.asked.append((model, submit))
        self.callers.append(caller)
        if model not in (None, "", "default", "demo"):
            raise ApiError(
                "model_not_found", f"there is no model {model!r}; models here: demo", param="model"
            )
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.abandoned.set()
                raise
        answer = self.answer(len(self.answers))
        answer.bounded = bounded
        self.answers.append(answer)
        return answer


class NoSkills:
    """What a spec without skills has."""

    def listing(self) -> list[dict[str, Any]]:
        return []

    async def offers(self, names: list[str]) -> dict[str, Any]:
        raise ApiError("invalid_request", f"skills: there is no skill {names[0]!r}", param="skills")


class Layers:
    """What `control.trying` is asked for."""

    def __init__(self, calls: list[tuple[str, Any]]) -> None:
        self._calls = calls

    def state(self) -> dict[str, Any]:
        return {"try": None, "ended": None}

    def rollback_of(self, generation: int | None) -> dict[str, Any]:
        return {"generation": generation or 1, "diff": []}

    async def begin(self, text: str, name: str, seconds: float, by: str) -> dict[str, Any]:
        return self._done("try", (text, name, seconds, by))

    async def confirm(self, by: str) -> dict[str, Any]:
        return self._done("confirm", by)

    def end(self, by: str) -> dict[str, Any]:
        return self._done("end_try", by)

    async def roll_back(self, generation: int | None, seconds: float, by: str) -> dict[str, Any]:
        return self._done("rollback", (generation, seconds, by))

    async def suspend(self, by: str) -> dict[str, Any]:
        return self._done("suspend", by)

    async def resume(self) -> dict[str, Any]:
        return self._done("resume", None)

    def _done(self, name: str, what: Any) -> dict[str, Any]:
        self._calls.append((name, what))
        return {"success": True}


class Board:
    """A control whose every answer can be set."""

    def __init__(self, router: Any) -> None:
        self.router = router
        self.access = Access(Path("/nowhere"), {})
        self.skills: Any = NoSkills()
        self.now = spec()
        self.beating: tuple[bool, str] = (True, "")
        self.readiness: tuple[bool, str, str] = (True, "demo", "")
        self.calls: list[tuple[str, Any]] = []
        self.trying: Any = Layers(self.calls)
        self.feed: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.after: int | None = None
        self.followers = 0

    def set(self, **server: Any) -> None:
        self.now = spec(**server)

    def spec(self) -> Spec:
        return self.now

    def status(self) -> dict[str, Any]:
        return {"name": "test", "summary": "Ready", "generation": 3}

    def page(self) -> tuple[bytes, str]:
        return b"<!doctype html><title>test</title>", '"tag"'

    async def page_changes(self) -> AsyncIterator[bytes]:
        yield b"event: page\ndata: {}\n\n"

    def metrics(self, accept: str) -> tuple[bytes, str]:
        return f"asked {accept}".encode(), "text/plain; version=0.0.4; charset=utf-8"

    def plan(self) -> list[dict[str, Any]]:
        return [{"action": "load", "model": "demo"}]

    async def config(self, *, origins: bool) -> dict[str, Any]:
        return {"version": 1, **({"origins": {}} if origins else {})}

    def alive(self) -> tuple[bool, str]:
        return self.beating

    def ready(self) -> tuple[bool, str, str]:
        return self.readiness

    def models(self) -> list[dict[str, Any]]:
        return [{"id": "demo", "aliases": ["small/demo"], "state": "ready", "context": {"effective": 512}}]

    async def admin_models(self) -> list[dict[str, Any]]:
        return [{"id": "demo", "loaded": True}]

    async def load(self, name: str) -> dict[str, Any]:
        self.calls.append(("load", name))
        if name != "demo":
            raise ApiError("model_not_found", f"there is no model {name!r}", param="model")
        return {"success": True, "model": name}

    async def unload(self, name: str | None) -> dict[str, Any]:
        self.calls.append(("unload", name))
        return {"success": True}

    async def clear_override(self, name: str | None) -> dict[str, Any]:
        self.calls.append(("clear_override", name))
        return {"success": True}

    async def drain(self, session_timeout: float, *, wait: bool) -> dict[str, Any]:
        self.calls.append(("drain", (session_timeout, wait)))
        return {"success": True, "in_flight": 0, "queued": 0}

    async def undrain(self) -> dict[str, Any]:
        self.calls.append(("undrain", None))
        return {"success": True, "cleared": 1}

    async def warmup(self, name: str | None) -> dict[str, Any]:
        self.calls.append(("warmup", name))
        return {"success": True, "model": name or "demo"}

    async def sessions(self) -> list[dict[str, Any]]:
        return [{"name": "talk", "model": "demo"}]

    async def drop_sessions(self, name: str | None, model: str | None) -> list[dict[str, Any]]:
        self.calls.append(("drop_sessions", (name, model)))
        return [{"name": name or "talk", "model": model or "demo"}]

    def identity(self, key: str | None) -> str:
        return f"hash of {key}" if key else ""

    async def reconcile(self) -> dict[str, Any]:
        self.calls.append(("reconcile", None))
        return {"success": True}

    async def events(self, after: int | None) -> AsyncIterator[dict[str, Any]]:
        self.after = after
        self.followers += 1
        try:
            while (event := await self.feed.get()) is not None:
                yield event
        finally:
            self.followers -= 1
