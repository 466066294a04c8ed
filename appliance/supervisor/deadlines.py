"""When an engine counts as hung. Pure: readings in, a verdict out, no clock of its own.

Two different proofs are asked of an engine. Any frame proves that its process is scheduled; only a
growing progress counter proves that the model computes. How long the second may take depends on the
stage, so that a slow big model is not taken for a dead one.

Only time that the parent itself saw pass is counted. After the parent was stopped, or its loop was
busy, the frames of that time are still unread and say nothing against the engine; a look that comes
late therefore counts as two regular ones at most.

A request that waits inside an engine for memory is not unanswered for as long as others run there: the
stages' own deadlines watch those, and the router withdraws one that has waited for its whole time.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.wire import Beat, Stage


@dataclass(frozen=True)
class Deadlines:
    """Seconds. `probe` is not here: the caller of `spawn` gives it with the prompt."""

    silence: float = 5.0  # no frame at all, though it beats twice a second
    silence_start: float = 20.0  # the same in stage "start": imports keep the interpreter to themselves
    start: float = 60.0  # before it begins to load
    load: float = 120.0  # no further weight file read
    compile: float = 300.0  # first forward pass
    prefill: float = 120.0  # one chunk of a prompt
    decode: float = 30.0  # one step
    answer: float = 120.0  # a request neither accepted nor refused while nothing else moves
    look: float = 0.5  # time between two looks

    def of(self, stage: Stage) -> float | None:
        """How long this stage may go without progress; None: for ever."""
        return {
            "start": self.start,
            "load": self.load,
            "compile": self.compile,
            "prefill": self.prefill,
            "decode": self.decode,
            "idle": None,
        }[stage]


@dataclass
class Watch:
    """What has been seen of one engine, and for how long nothing has."""

    deadlines: Deadlines
    stage: Stage = "start"
    age: float = 0.0  # seconds seen to pass since the first look
    _frames: int = 0
    _progress: int = -1
    _steps: int = 0
    _silent: float = 0.0
    _still: float = 0.0
    _unanswered: float = 0.0
    _looked: float | None = None
    _suspect: bool = False
    _waits: bool = False  # requests wait inside it while others run

    def beat(self, beat: Beat) -> None:
        if beat.stage != self.stage or beat.progress != self._progress:
            self._still = 0.0
            self._unanswered = 0.0
        self.stage = beat.stage
        self._progress = beat.progress
        self._waits = beat.waiting > 0 and beat.rows > 0

    def look(self, now: float, frames: int, steps: int, unanswered: bool) -> str | None:
        """Judge once per `Deadlines.look`. Returns why the engine is hung, in words, or None.

        frames, steps: counters of what has been read from the engine; unanswered: a request waits
        for its Accepted. A suspicion has to hold at two looks in a row, with the loop's chance to read
        pending frames between them.
        """
        passed = 0.0 if self._looked is None else min(now - self._looked, 2 * self.deadlines.look)
        self._looked = now
        self.age += passed
        heard, moved = frames != self._frames, steps != self._steps
        self._frames, self._steps = frames, steps
        self._silent = 0.0 if heard else self._silent + passed
        self._still = 0.0 if moved else self._still + passed
        excused = moved or not unanswered or self._waits
        self._unanswered = 0.0 if excused else self._unanswered + passed
        doubt = self._doubt()
        confirmed, self._suspect = self._suspect, doubt is not None
        return doubt if confirmed else None

    def _doubt(self) -> str | None:
        limits = self.deadlines
        allowed = limits.silence_start if self.stage == "start" else limits.silence
        if self._silent > allowed:
            return f"no sign of life for {self._silent:.1f} s in stage {self.stage}"
        limit = limits.of(self.stage)
        if limit is not None and self._still > limit:
            return f"no progress for {self._still:.1f} s in stage {self.stage} (limit {limit:g} s)"
        if self._unanswered > limits.answer:
            return f"a request went unanswered for {self._unanswered:.1f} s in stage {self.stage}"
        return None
