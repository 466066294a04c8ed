"""Conversations that a fresh engine reads before it takes traffic, so that their beginnings are cached.

One after the other, each for one token. One that fails is noted and passed over: without it the model answers
as well, only later. When the time is up, the rest is left out.
"""

from __future__ import annotations

from collections.abc import Callable

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor import probe
from appliance.supervisor.order import Sink, Template
from reconciler.observed import WarmupObs

RID = probe.RID  # the probe is over by then


class Warmup:
    """submit: to the engine. cancel: what runs there. done: called once, when there is no more to do."""

    def __init__(
        self,
        templates: tuple[Template, ...],
        submit: Callable[[wire.Submit, Sink], None],
        cancel: Callable[[int], None],
        done: Callable[[], None],
    ) -> None:
        self._templates, self._submit, self._cancel, self._done = templates, submit, cancel, done
        self._failed: list[tuple[str, str]] = []
        self._next = 0
        self._begun = self._over = False

    def observe(self) -> WarmupObs:
        names = tuple(template.name for template in self._templates)
        return WarmupObs(names, self._next, self._begun, tuple(self._failed))

    def start(self) -> None:
        """The first, or the next one."""
        self._begun = True
        while self._next < len(self._templates):
            template = self._templates[self._next]
            if template.submit is None:
                self._note(template.problem)
                continue
            try:
                self._submit(template.submit, _Sink(self._ended))
            except wire.WireError as error:
                self._note(str(error))
                continue
            return
        if not self._over:
            self._over = True
            self._done()

    def expire(self, seconds: float) -> None:
        """Nothing more is begun, and what runs is cancelled."""
        self._cancel(RID)
        while self._next < len(self._templates):
            self._note(f"there was no time left for it: the warm-up may take {seconds:g} s")
        self.start()

    def _note(self, problem: str) -> None:
        self._failed.append((self._templates[self._next].name, problem))
        self._next += 1

    def _ended(self, problem: str | None) -> None:
        if self._next >= len(self._templates):
            return
        if problem is None:
            self._next += 1
        else:
            self._note(problem)
        self.start()


class _Sink:
    """ended: called once, with what went wrong or None."""

    def __init__(self, ended: Callable[[str | None], None]) -> None:
        self._ended = ended

    def accepted(self, message: wire.Accepted) -> None:
        return None  # its end counts

    def refused(self, message: wire.Refused) -> None:
        self._ended(message.message)

    def row(self, row: wire.Row) -> None:
        if row.finish == "error":
            self._ended(row.message or "the engine gave no reason")
        elif row.finish is not None:
            self._ended(None)

    def lost(self, error: ApiError) -> None:
        return None  # the engine ends, and says itself why

    def returned(self) -> None:
        return None  # as above
