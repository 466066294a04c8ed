"""A whole run: rounds of speeds and of cells, one after the other, within a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.benching import asking, judging, speed
from appliance.benching.asking import NotAnswered
from appliance.benching.cells import Cell
from appliance.benching.judging import Verdict

if TYPE_CHECKING:
    import httpx

AT_ONCE = 4  # cells that are asked at a time


@dataclass(frozen=True)
class Plan:
    """What to measure. within_s: no new round begins later than this. most: tokens of the model's context."""

    model: str
    kind: str
    sizes: speed.Sizes
    rounds: int
    quality_rounds: int
    within_s: float
    cells: Sequence[Cell]
    max_tokens: int | None  # of each cell's answer; None: what the cell says
    speeds: bool
    salt: str
    most: int | None


@dataclass
class Found:
    """values: of each figure, one a round. verdicts: of each cell, one a quality round. seconds: it took."""

    values: dict[str, list[float]] = field(default_factory=dict)
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rounds(self) -> int:
        return max((len(values) for values in self.values.values()), default=0)

    @property
    def quality_rounds(self) -> int:
        return max((len(verdicts) for verdicts in self.verdicts.values()), default=0)


def run(url: str, headers: Mapping[str, str], plan: Plan, say: Callable[[str], None]) -> Found:
    """say: what is being done, for a line on a terminal. Raises NotAnswered."""
    try:
        return asyncio.run(_run(url, headers, plan, say))
    except BaseExceptionGroup as group:
        raise _first(group) from group


async def _run(url: str, headers: Mapping[str, str], plan: Plan, say: Callable[[str], None]) -> Found:
    found = Found()
    start = time.monotonic()
    async with asking.client(url, headers, max(speed.STREAMS)) as http:
        speeds = speed.Speeds(http, plan.model, plan.sizes, plan.salt, plan.most)
        if plan.speeds:
            say("warming up")
            await speeds.warm_up()
        for number in range(max(plan.rounds if plan.speeds else 0, plan.quality_rounds if plan.cells else 0)):
            if number and time.monotonic() - start >= plan.within_s:
                break
            if plan.speeds and number < plan.rounds:
                say(f"round {number + 1} of {plan.rounds}: speeds")
                for name, value in (await speeds.one_round(number)).items():
                    found.values.setdefault(name, []).append(value)
            if number < plan.quality_rounds:
                await _cells(http, plan, number, found, say)
    found.seconds = time.monotonic() - start
    return found


async def _cells(
    http: httpx.AsyncClient, plan: Plan, number: int, found: Found, say: Callable[[str], None]
) -> None:
    turn = asyncio.Semaphore(AT_ONCE)
    done = 0

    async def ask(cell: Cell) -> None:
        nonlocal done
        async with turn:
            # Another seed each round: a model that draws its answers shows how much they vary.
            body = {**cell.body, "model": plan.model, "seed": number + 1}
            if plan.max_tokens is not None:
                body["max_tokens"] = plan.max_tokens
            message = await asking.whole(http, body)
        verdict = await asyncio.to_thread(judging.judge, cell.expect, message)
        found.verdicts.setdefault(cell.name, []).append(verdict)
        done += 1
        say(f"round {number + 1} of {plan.quality_rounds}: {done} of {len(plan.cells)} cells")

    async with asyncio.TaskGroup() as group:
        for cell in plan.cells:
            group.create_task(ask(cell))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The refusal that a person can act on, out of what several streams met at once."""
    for error in group.exceptions:
        inner = _first(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(inner, NotAnswered):
            return inner
    return group
