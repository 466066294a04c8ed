"""One request on the device, wherever it is: in a prompt being worked on, or in a batch that decodes."""

from __future__ import annotations

from dataclasses import dataclass, field

from appliance.engine.constraint.guide import Guide
from appliance.engine.likely import Likely, Told
from appliance.engine.output import Output
from appliance.engine.prompt import Job
from appliance.engine.reuse import Trail
from appliance.engine.sampling import Processor, Sampler


@dataclass(eq=False, slots=True)
class Row:
    """One request on the device."""

    job: Job
    output: Output
    sampler: Sampler
    processor: Processor | None
    trail: Trail | None = None  # what the prompt cache keeps of it; None: nobody asks
    tokens: list[int] = field(default_factory=list)  # generated, and read back from the device
    primed: bool = False  # the last prompt token has gone through
    read: bool = False  # its newest token was read before the step that it goes into was launched
    failed: str | None = None  # what its own processor or grammar raised
    code: str | None = None  # what clients know such a failure by; None: engine_failed
    guide: Guide | None = None  # what its tokens must follow; None: nothing, or nothing any more
    telling: Told | None = None  # log-probabilities of the token under way
    likely: list[tuple[int, Likely]] = field(default_factory=list)  # read, and not yet sent

    def astray(self, why: str) -> None:
        """Its grammar cannot be followed: the request's doing, and the same again would end the same way."""
        self.failed = f"{why}; simplify the schema or grammar, or ask without it"
        self.code = "unsupported_grammar"

    @property
    def produced(self) -> int:
        return len(self.tokens)
