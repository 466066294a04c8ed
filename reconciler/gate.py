"""From bytes to an accepted spec, or a reason why not. The last good one stays in force meanwhile.

read ─▶ same bytes as last time? ─▶ parse, schema, semantics ─▶ same meaning? ─▶ new generation
  │ no: SourceFailed                  │ no: SpecRejected            └ yes: SpecUnchanged
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from reconciler.events import EventType
from reconciler.spec import Spec


@dataclass(frozen=True)
class Refused:
    """Newer content that the source did not take. content_digest: where it was not read, its commit.

    invalid: it is no valid spec; else it may not run whatever it says.
    """

    content_digest: str
    message: str
    text: bytes = b""
    invalid: bool = False


class Content(Protocol):
    @property
    def data(self) -> bytes: ...
    @property
    def content_digest(self) -> str: ...
    @property
    def refused(self) -> Refused | None: ...


class SourceProblem(Exception):
    """The source cannot be read. The message says what to do."""


class SpecProblem(Exception):
    """The content is not a valid spec. The message has line and column."""


@dataclass(frozen=True)
class Parsed:
    spec: Spec
    digest: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accepted:
    spec: Spec
    digest: str
    generation: int
    content_digest: str
    text: bytes


@dataclass(frozen=True)
class Attempt:
    """The newest content seen. outcome: applied | unchanged | rejected. text: of one that was rejected."""

    content_digest: str
    outcome: str
    message: str
    at: float
    text: bytes = b""


Emit = Callable[[EventType, str, dict[str, object]], None]


class Gate:
    """Holds what was accepted and what was tried last. read/parse raise the two problems above."""

    def __init__(
        self,
        read: Callable[[], Content],
        parse: Callable[[bytes], Parsed],
        wall: Callable[[], float],
        emit: Emit,
        *,
        accepted: Accepted | None,
        generation: int,
    ) -> None:
        self._read, self._parse, self._wall, self._emit = read, parse, wall, emit
        self.accepted = accepted
        self.generation = generation
        self.attempt: Attempt | None = None
        self.source_error: str | None = None
        self.config_error: str | None = None
        self.last_checked = 0.0
        self.warnings: tuple[str, ...] = ()
        self._taken_from = ""  # the digest of the content that was considered last
        self.frozen = False  # another LMX follows the source now

    def restart(self, accepted: Accepted | None, generation: int) -> None:
        """As a start does: these are in force, and the source is read as if for the first time."""
        self.accepted, self.generation, self.attempt = accepted, generation, None

    def check(self) -> bool:
        """Look at the source; True when a new generation was accepted."""
        if self.frozen:
            return False
        self.last_checked = self._wall()
        try:
            content = self._read()
        except SourceProblem as error:
            if self.source_error != str(error):
                self._emit(EventType.SOURCE_FAILED, str(error), {})
            self.source_error = str(error)
            return False
        if self.source_error is not None:
            self.source_error = None
            self._emit(EventType.SOURCE_RECOVERED, "the spec can be read again", {})
        newest = content.refused or content
        again = self.attempt is not None and self.attempt.content_digest == newest.content_digest
        if again and self._taken_from == content.content_digest:
            return False
        self._taken_from = content.content_digest
        accepted = self._consider(content)
        if content.refused is not None:
            self._refuse(content.refused)
        return accepted

    def _consider(self, content: Content) -> bool:
        try:
            parsed = self._parse(content.data)
        except SpecProblem as error:
            self.config_error = str(error)
            self._note(content, "rejected", str(error))
            self._emit(EventType.SPEC_REJECTED, str(error), {"content_digest": content.content_digest})
            return False
        self.config_error = None
        self.warnings = parsed.warnings
        if self.accepted is not None and parsed.digest == self.accepted.digest:
            before = self.accepted.content_digest
            self.accepted = Accepted(
                parsed.spec, parsed.digest, self.accepted.generation, content.content_digest, content.data
            )
            self._note(content, "applied", "same meaning as before")
            if before == content.content_digest:
                return False  # a restart with the file as it was
            self._emit(EventType.SPEC_UNCHANGED, "the file changed, its meaning did not", {})
            return False
        self.generation += 1
        self.accepted = Accepted(
            parsed.spec, parsed.digest, self.generation, content.content_digest, content.data
        )
        self._note(content, "applied", "")
        self._emit(
            EventType.SPEC_ACCEPTED,
            f"generation {self.generation}" + "".join(f"; {w}" for w in parsed.warnings),
            {
                "generation": self.generation,
                "digest": parsed.digest,
                "content_digest": content.content_digest,
            },
        )
        return True

    def _refuse(self, refused: Refused) -> None:
        """The source itself has told of it in an event."""
        if refused.invalid:
            self.config_error = refused.message
        self.attempt = Attempt(
            refused.content_digest, "rejected", refused.message, self._wall(), refused.text
        )

    def _note(self, content: Content, outcome: str, message: str) -> None:
        text = content.data if outcome == "rejected" else b""
        self.attempt = Attempt(content.content_digest, outcome, message, self._wall(), text)
