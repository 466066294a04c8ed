"""Who starts next, with what the prompt cache has for it.

The decisions, in this order:

1. one that waits for a prompt which is being computed, and begins as its own does, lets others pass;
2. callers take turns (`fairness`), and within a caller the first comes first;
3. whose turn it is waits until there is a row and memory for it, and nobody passes;
4. part of it lies on disk: that is read while others compute, with its row and memory reserved;
5. it starts, from what was restored. Only now is it Accepted: until then it may run elsewhere.

One that waits for memory never waits for ever: rows that run will end, and where none runs and it still
does not fit, it is refused. What waits in 1 goes on when that prompt has passed the common part or is gone,
and what waits in 4 when the disk has answered.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from appliance.engine import lines, prompt
from appliance.engine.allowance import Allowance
from appliance.engine.fairness import Fair
from appliance.engine.intake import Intake, Woken
from appliance.engine.link import Closed
from appliance.engine.load import Model
from appliance.engine.output import Output
from appliance.engine.pricing import Batch
from appliance.engine.prompt import Job
from appliance.engine.reuse import Match, Off, Restored, Reuse
from appliance.engine.row import Row
from appliance.engine.running import Running
from appliance.engine.sampling import Processor, Samplers
from appliance.wire import Accepted, FromEngine, Refused, Step
from appliance.wire import Row as Line

log = logging.getLogger(__name__)

BLOCK = 256  # tokens: what a prompt must share beyond what is cached to wait for another one


@dataclass(eq=False)
class Waiting:
    """One request that has not started."""

    job: Job
    behind: Row | None = None  # whose prompt it waits for
    until: int = 0  # tokens of that prompt which must be done


@dataclass(eq=False)
class Fetching:
    """One whose row and memory are reserved while the disk is read."""

    job: Job
    match: Match


class Admission:
    """Only for the decode thread."""

    def __init__(
        self,
        model: Model,
        reuse: Reuse,
        intake: Intake,
        allowance: Allowance,
        running: Running,
        fair: Fair,
        send: Callable[[FromEngine], None],
    ) -> None:
        self._model = model
        self._reuse = reuse
        self._intake = intake
        self._allowance = allowance
        self._running = running
        self._fair = fair
        self._send = send
        self._samplers = Samplers()
        self._waiting: deque[Waiting] = deque()
        self._fetching: list[Fetching] = []
        self._short: Waiting | None = None  # whose turn it is, and for whom there is no memory yet

    @property
    def count(self) -> int:
        """Requests that have not started."""
        return len(self._waiting) + len(self._fetching)

    @property
    def stuck(self) -> bool:
        """Only an answer of the disk can make more of them start, where nothing computes."""
        return bool(self._fetching) or not self._waiting

    @property
    def reserved(self) -> list[Batch]:
        """The memory of those for which the disk is read."""
        return [Batch(1, fetching.job.total) for fetching in self._fetching]

    def add(self, job: Job) -> None:
        here = [*(waiting.job for waiting in self._waiting), *(fetching.job for fetching in self._fetching)]
        here += [row.job for row in self._running.rows]
        self._fair.arrive(job.caller, any(other.caller == job.caller for other in here))
        self._waiting.append(Waiting(job))

    def cancel(self, rid: int) -> bool:
        """Drop it, if it has not started; whether it was here."""
        for waiting in self._waiting:
            if waiting.job.rid == rid:
                self._waiting.remove(waiting)
                return True
        for fetching in self._fetching:
            if fetching.job.rid == rid:
                self._fetching.remove(fetching)
                self._reuse.forget(fetching.match)
                return True
        return False

    def turn(self) -> None:
        """Start what can start."""
        for fetching in [fetching for fetching in self._fetching if fetching.match.ready]:
            self._fetching.remove(fetching)
            self._guarded(fetching.job, partial(self._start, fetching.job, fetching.match))
        while self._slots() > 0 and (waiting := self._next()) is not None:
            if self._fits(waiting.job):
                self._short = None
                self._guarded(waiting.job, partial(self._begin, waiting))
            elif self._running.rows or self._fetching:
                self._short = waiting
                return
            else:
                self._waiting.remove(waiting)
                self._refuse(waiting.job)

    def _next(self) -> Waiting | None:
        """Whose turn it is. Once there was no memory for one, it stays that one's."""
        if self._short is not None and self._short in self._waiting:
            return self._short
        self._short = None
        first: dict[str, Waiting] = {}
        for waiting in self._waiting:
            if waiting.job.caller not in first and not self._held(waiting):
                first[waiting.job.caller] = waiting
        return first[self._fair.next(first)] if first else None

    # -- one request ---------------------------------------------------------------------------------

    def _guarded(self, job: Job, run: Callable[[], None]) -> None:
        """What fails before a request has started ends that request alone."""
        try:
            run()
        except Closed:
            raise
        except Exception as error:  # tokenizers, samplers and caches raise their own kinds
            self.cancel(job.rid)
            log.error("request %d cannot start", job.rid, exc_info=error)
            error.__traceback__ = None  # its frames hold arrays
            self._send(Step([Line(job.rid, "", 0, "error", lines.describe(error))]))

    def _begin(self, waiting: Waiting) -> None:
        """It has its turn: hold it back, fetch for it, or start it."""
        job = waiting.job
        match = self._reuse.look(job)
        if self._hold(waiting, match):
            return
        self._waiting.remove(waiting)
        if match.ready:
            return self._start(job, match)
        self._fetching.append(Fetching(job, match))
        self._allow()
        self._reuse.fetch(match, lambda: self._intake.inbox.put(Woken()))

    def _start(self, job: Job, match: Match) -> None:
        row = Row(
            job=job,
            output=Output(self._model.tokenizer, job.stop, job.plan, goes_on=job.goes_on),
            sampler=self._samplers.get(job.choice, job.seed),
            processor=None if job.choice.plain else Processor(job.choice, job.prompt),
            guide=None if job.guiding is None else job.guiding.guide(self._model.tokenizer),
        )
        self._allow(Batch(1, job.total))  # the cache gives way before its part of this row is copied
        restored = self._reuse.restore(match)
        if restored.caches is None:
            restored = Restored()
        row.trail = self._reuse.begin(job, restored)
        self._fair.start(job.caller)
        self._fair.charge(job.caller, len(job.prompt) - restored.tokens)
        self._send(Accepted(job.rid, len(job.prompt), restored.tokens, restored.tier))
        self._running.begin(row, restored)

    def _refuse(self, job: Job) -> None:
        """Nothing runs and it does not fit: the allowance shrank while it waited, and may not come back."""
        refusal = prompt.no_room(job, self._intake.limits, self._model.price)
        self._send(Refused(job.rid, refusal.code, refusal.message, refusal.param, refusal.details))

    # -- rows and memory -----------------------------------------------------------------------------

    def _slots(self) -> int:
        most = max(1, self._intake.limits.concurrency) if self._model.batchable else 1
        return most - len(self._running.rows) - len(self._fetching)

    def _fits(self, job: Job) -> bool:
        return self._allowance.fits([*self._running.batches(), *self.reserved, Batch(1, job.total)])

    def _allow(self, *more: Batch) -> None:
        self._allowance.hold([*self._running.batches(), *self.reserved, *more])

    # -- prompts that begin as one in work does ------------------------------------------------------

    def _hold(self, waiting: Waiting, match: Match) -> bool:
        """Whether a prompt in work will soon leave at least one block more than is cached now."""
        limits = self._intake.limits
        if isinstance(self._reuse, Off) or not (limits.cache_memory or limits.cache_disk):
            return False  # nothing will be left behind
        for row, done in self._running.prompts():
            if row.job.scope != waiting.job.scope:
                continue
            common = shared(row.job.prompt, waiting.job.prompt)
            if common > done and common - match.tokens >= BLOCK:
                waiting.behind, waiting.until = row, common
                return True
        return False

    def _held(self, waiting: Waiting) -> bool:
        if waiting.behind is None:
            return False
        if any(row is waiting.behind and done < waiting.until for row, done in self._running.prompts()):
            return True
        waiting.behind = None
        return False


def shared(one: list[int], other: list[int]) -> int:
    """Tokens in whole blocks that both begin with, the last token of each left out: it is always computed."""
    most = min(len(one), len(other)) - 1
    same = 0
    while same + BLOCK <= most and one[same : same + BLOCK] == other[same : same + BLOCK]:
        same += BLOCK
    return same
