"""Rounds of generation and calls, behind the interface of one answer.

    generate ─▶ calls of skills ─▶ run them side by side ─▶ generate, with the results ─▶ ... ─▶ text

What the model says in any round is handed on as it comes, calls of the client's own tools included; calls of
skills are told as `Step`s. It ends when a round calls no skill, when the client is to run one of its own
tools, or at a bound: then with finish "length" and a warning, and what was asked for last is not run.

Each round is a request of its own to the router, on the model of the first one, or, where a swap took that
away meanwhile, on what answers by the request's name now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol

import msgspec

from appliance import wire
from appliance.errors import ApiError
from appliance.skills.messages import Result
from appliance.skills.registry import Offer
from appliance.skills.round import Round
from appliance.skills.steps import NOT_RUN, Step, Told, as_message, as_object, together, told
from appliance.supervisor.engine import Engine
from appliance.supervisor.generation import Delta, Generation
from appliance.supervisor.record import NOBODY, Caller

ROUNDS = 8
TOTAL_S = 300.0
ABREAST = 16  # calls of one round that are run; a model that asks for more is told so
PARAGRAPH = "\n\n"  # between what is said before calls and after them


class Runs(Protocol):
    async def call(self, offer: Offer, arguments: dict[str, Any]) -> Result: ...


class Opens(Protocol):
    """`supervisor.router.Router`, of which only this is asked."""

    async def open(
        self,
        model: str | None,
        submit: wire.Submit,
        *,
        bounded: bool = True,
        caller: Caller = NOBODY,
        beside: Generation | None = None,
    ) -> Generation: ...


@dataclass(frozen=True)
class Bounds:
    """rounds: of calls. seconds: of everything."""

    rounds: int = ROUNDS
    seconds: float = TOTAL_S


@dataclass(frozen=True)
class Plan:
    """What a request allows. client: names of tools that the client runs itself."""

    skills: Runs
    offers: Mapping[str, Offer]
    client: frozenset[str] = frozenset()
    bounds: Bounds = field(default_factory=Bounds)


class Opener:
    """For `Ask.opener`: opens answers that run skills on their way."""

    def __init__(self, router: Opens, plan: Plan) -> None:
        self._router, self._plan = router, plan

    async def __call__(
        self,
        model: str | None,
        submit: wire.Submit,
        *,
        bounded: bool = True,
        caller: Caller = NOBODY,
        beside: Answering | None = None,
    ) -> Answering:
        """As `Router.open`."""
        other = None if beside is None else beside.first
        first = await self._router.open(model, submit, bounded=bounded, caller=caller, beside=other)
        return Answering(self._router, self._plan, model, submit, caller, first)


class _Stopped(Exception):
    """A bound is reached; why."""


class Answering:
    """An answer as `Generation` gives it: iterate to the end, or `collect`, or `cancel`. Usage is the sum of
    all rounds. Raises ApiError where a round does."""

    def __init__(
        self,
        router: Opens,
        plan: Plan,
        asked: str | None,
        submit: wire.Submit,
        caller: Caller,
        first: Generation,
    ) -> None:
        self._router, self._plan, self._asked, self._caller = router, plan, asked, caller
        self._submit = submit
        self.first = self._now = first
        self.model, self.engine_id, self.bounded = first.model, first.engine_id, first.bounded
        self._prompt = self._cached = self._tokens = self._thought = 0  # of the rounds that are over
        self._latest = 0  # tokens of the round that runs
        self._running: set[asyncio.Task[Any]] = set()
        self._cancelled = False
        self._expired = False
        self._spoken = False  # something was said in an earlier round
        self._deltas = self._run()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(plan.bounds.seconds, self._expire)

    @property
    def prompt_tokens(self) -> int:
        return self._prompt + self._now.prompt_tokens

    @property
    def cached_tokens(self) -> int:
        return self._cached + self._now.cached_tokens

    @property
    def tokens(self) -> int:
        return self._tokens + self._latest

    @property
    def engine(self) -> Engine:
        return self._now.engine

    @property
    def ended(self) -> bool:
        return self._now.ended and not self._running

    def cancel(self) -> None:
        """Give the row back and end the calls that run."""
        self._cancelled = True
        self._stop()

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self._deltas

    async def collect(self) -> Delta:
        """The whole answer in one delta. Raises ApiError."""
        self.bounded = self._now.bounded = False
        found = [delta async for delta in self._deltas]
        if not found or found[-1].finish is None:
            text = "the engine ended this request without a word; try again"
            raise ApiError("engine_failed", text, retry_after=1)
        last, mores = found[-1], [delta.more for delta in found if delta.more is not None]
        text = "".join(delta.text for delta in found)
        return Delta(text, last.tokens, last.finish, last.stop, together(mores) if mores else None)

    async def __aenter__(self) -> Answering:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
        self._timer.cancel()
        await self._deltas.aclose()
        await asyncio.gather(*self._running, return_exceptions=True)

    # --- inside ------------------------------------------------------------------------------------

    def _expire(self) -> None:
        self._expired = True
        self._stop()

    def _stop(self) -> None:
        self._now.cancel()
        for task in self._running:
            task.cancel()

    async def _run(self) -> AsyncGenerator[Delta, None]:
        for number in range(self._plan.bounds.rounds + 1):
            said = Round()
            last: Delta | None = None
            async for delta in self._now:
                self._latest = delta.tokens
                beside = self._sum(said.hear(delta, self._plan.client), said)
                text = self._spaced(delta.text, said)
                if delta.finish is not None:
                    last = Delta(text, 0, delta.finish, delta.stop, beside)
                    break
                yield Delta(text, self.tokens, None, None, beside)
            if last is None:
                return  # it ended without a word; the reader finds that out
            steps = said.steps(self._plan.offers)
            why = self._why_not(number, last, said, steps)
            if why is not None or not steps or last.finish != "stop":
                yield self._final(last, steps, why, handed=bool(said.theirs))
                return
            yield Delta(last.text, self.tokens, None, None, told(last.more, steps))
            done: list[Step] = []
            async for step in self._calls(steps):
                done.append(step)
                yield Delta("", self.tokens, None, None, Told(steps=(step,)))
            if self._cancelled or self._expired:
                why, ids = (_LATE if self._expired else None), {step.id for step in done}
                cut = [step for step in steps if step.id not in ids]
                yield self._final(Delta("", 0, "cancelled"), cut, why, cut="cancelled")
                return
            order = {step.id: place for place, step in enumerate(steps)}
            done.sort(key=lambda step: order[step.id])
            try:
                await self._next(said, done)
            except ApiError as error:
                if error.code != "context_length_exceeded":
                    raise
                yield self._final(Delta("", 0, "stop"), [], f"the results do not fit: {error.message}")
                return

    def _why_not(self, number: int, last: Delta, said: Round, steps: Sequence[Step]) -> str | None:
        """Why what was asked for is not run; None where it is."""
        if self._expired:
            return _LATE
        if not steps or last.finish not in ("stop", "length"):
            return None
        if last.finish == "length":
            return "the answer was cut off at its token limit"
        if said.theirs:
            return "a tool of the client was called beside it, and the client answers first"
        if number >= self._plan.bounds.rounds:
            return f"{self._plan.bounds.rounds} rounds of calls are the most"
        limit = self._submit.sampling.max_tokens
        if limit is not None and self.tokens >= limit:
            return "max_tokens is used up"
        return None

    def _final(
        self,
        last: Delta,
        steps: Sequence[Step],
        why: str | None,
        *,
        handed: bool = False,
        cut: Literal["not_run", "cancelled"] = NOT_RUN,
    ) -> Delta:
        """The last delta. A bound that ended it is told as a warning. steps: what has no result, for it was
        not begun, or was cut. handed: the client goes on."""
        finish, more = last.finish, last.more
        undone = [msgspec.structs.replace(step, outcome=cut, result=why) for step in steps]
        if why is not None and not handed and not self._cancelled:
            finish = "length"
            warning = f"skills: {why}; the answer ends here"
            base = more or wire.More()
            joined = "; ".join(filter(None, [base.warning, warning]))
            more = msgspec.structs.replace(base, warning=joined)
        if undone:
            more = told(more, undone)
        return Delta(last.text, self.tokens, finish, last.stop, more)

    def _spaced(self, text: str, said: Round) -> str:
        """With a paragraph before the first text of a later round."""
        if not text:
            return text
        first = not any(said.text[:-1])
        before, self._spoken = self._spoken, True
        return PARAGRAPH + text if first and before and self._tokens else text

    def _sum(self, more: wire.More | None, said: Round) -> wire.More | None:
        if more is None or not self._thought:
            return more
        return msgspec.structs.replace(more, reasoning_tokens=self._thought + said.thought)

    async def _calls(self, steps: Sequence[Step]) -> AsyncIterator[Step]:
        """Each when it is done."""
        tasks = {asyncio.create_task(self._call(step, place)) for place, step in enumerate(steps)}
        self._running |= tasks
        waiting = set(tasks)
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if not task.cancelled():
                        yield task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._running -= tasks

    async def _call(self, step: Step, place: int) -> Step:
        arguments, offer = as_object(step.arguments), self._plan.offers.get(step.name)
        began = time.perf_counter()
        if offer is None:
            known = ", ".join(self._plan.offers)
            result = Result(0, "invalid_arguments", f"there is no tool {step.name!r}; there is: {known}")
        elif arguments is None:
            result = Result(0, "invalid_arguments", "the arguments are no JSON object")
        elif place >= ABREAST:
            result = Result(0, "busy", f"at most {ABREAST} calls at a time; call again")
        else:
            result = await self._plan.skills.call(offer, arguments)
        seconds = time.perf_counter() - began
        return msgspec.structs.replace(step, outcome=result.outcome, result=result.text, seconds=seconds)

    async def _next(self, said: Round, done: Sequence[Step]) -> None:
        """Begin the next round. Raises ApiError."""
        submit = self._submit
        messages = [*(submit.messages or ()), said.message(done), *map(as_message, done)]
        self._prompt, self._cached = self.prompt_tokens, self.cached_tokens
        self._tokens, self._thought = self.tokens, self._thought + said.thought
        self._latest = 0
        names = submit.tool_names
        named = submit.tool_choice == "required" and names is not None and len(names) == 1
        self._submit = msgspec.structs.replace(
            submit,
            messages=messages,
            continue_final=False,
            # Else it would have to call, and call again.
            tool_choice="auto" if submit.tool_choice == "required" else submit.tool_choice,
            tool_names=None if named else names,
        )
        limit = submit.sampling.max_tokens
        now = self._submit
        if limit is not None:
            left = msgspec.structs.replace(submit.sampling, max_tokens=max(1, limit - self._tokens))
            now = msgspec.structs.replace(now, sampling=left)
        self._now = await self._open(now)
        if self._cancelled or self._expired:
            self._now.cancel()

    async def _open(self, submit: wire.Submit) -> Generation:
        try:
            return await self._router.open(
                self.model, submit, bounded=self.bounded, caller=self._caller, beside=self.first
            )
        except ApiError as error:
            if error.code != "model_swapping":
                raise
        return await self._router.open(self._asked, submit, bounded=self.bounded, caller=self._caller)


_LATE = "the time for calls and answers is used up"
