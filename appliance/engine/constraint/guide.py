"""Where one row is in what it must follow. Fed with each token once it is read, before the next is picked.

A row thinks, or may begin to, and then it answers. The grammar is for the answer only. While it thinks
everything may come but the end of the text and of what can only stand in an answer; once the budget is used
up, the marker that ends thinking is all that may come. It is written token by token, as if the model had
chosen it: nothing is computed again, and the rows beside it notice nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from appliance.engine.constraint.compiler import short

if TYPE_CHECKING:
    from appliance.engine.output import Incremental, Streaming


Phase = Literal["opening", "thinking", "closing", "answer"]


class Matcher(Protocol):
    """llguidance's LLMatcher, as far as it is used."""

    def consume_token(self, sampled_token: int) -> bool: ...
    def consume_tokens(self, sampled_tokens: list[int]) -> bool: ...
    def is_error(self) -> bool: ...
    def get_error(self) -> str: ...
    def is_stopped(self) -> bool: ...
    def is_accepting(self) -> bool: ...


class Astray(RuntimeError):
    """The row cannot go on as its grammar wants."""


@dataclass(frozen=True)
class Marker:
    """What begins or ends thinking: its text, and how the tokenizer writes it."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Thinking:
    """How the model thinks. inside: the prompt has begun it. budget: tokens of it, at most; None: any."""

    start: Marker
    end: Marker
    inside: bool
    budget: int | None = None


class Guide:
    def __init__(
        self,
        matcher: Matcher | None,
        thinking: Thinking | None,
        text: Streaming | Incremental,
        *,
        behind: Matcher | None = None,
        width: int = 0,
        encode: Any = None,
        banned: frozenset[int] = frozenset(),
        call: str | None = None,
    ) -> None:
        """matcher None: the answer is free; it knows `width` tokens. text: writes this row's tokens out, for
        the markers in them. behind: for an answer behind a thought that the prompt did not begin.

        banned: tokens that must not come while it thinks, where the answer is not free. encode: from text to
        tokens, as the matcher has them. call: what begins a tool call, and so ends a thought that is not
        closed; None: the answer has none, and is text whatever it looks like.
        """
        self.matcher = matcher
        self.width = width
        self._behind = behind
        self.banned = banned if matcher is not None else frozenset()
        self.phase: Phase = "answer"
        if thinking is not None:
            self.phase = "thinking" if thinking.inside else "opening"
        self._thinking = thinking
        self._encode = encode
        self._text = text
        self._seen = ""  # the end of what was written, long enough for a marker
        self._count = 0  # tokens of thinking
        self._forced: deque[int] = deque()
        self._call = call
        self._settles = matcher is not None and call is None
        self._check_budget()

    @property
    def forced(self) -> int | None:
        """The only token that may come next; None: see `matching`."""
        return self._forced[0] if self._forced else None

    @property
    def matching(self) -> bool:
        """The grammar says what may come next, and `also` beside it."""
        return self.matcher is not None and self.phase in ("answer", "opening")

    @property
    def also(self) -> int | None:
        """A token that may come though the grammar does not know it: the one that begins thinking."""
        if self.phase == "opening" and self._thinking is not None:
            return self._thinking.start.tokens[0]
        return None

    @property
    def free(self) -> bool:
        """Nothing is left to follow."""
        return self.phase == "answer" and self.matcher is None

    @property
    def ended(self) -> bool:
        """The answer is whole: nothing could follow but the end of the text."""
        if self.phase != "answer" or self.matcher is None or not self.matcher.is_stopped():
            return False
        return self.matcher.is_accepting() and not self.matcher.is_error()  # one in error has stopped too

    @property
    def settles(self) -> bool:
        """True once: the answer has begun, and no marker counts in it."""
        if self.phase != "answer" or not self._settles:
            return False
        self._settles = False
        return True

    def take(self, token: int) -> None:
        """The row's newest token. Raises Astray."""
        if self.phase == "answer":
            self._match([token])
        elif self.phase == "closing":
            self._forced.popleft()
            if not self._forced:
                self.phase = "answer"
        elif self.phase == "opening":
            self._open(token)
        else:
            self._think(token)

    def _open(self, token: int) -> None:
        """Whether it begins to think is seen from its first tokens."""
        thinking = self._thinking
        assert thinking is not None
        start = thinking.start
        if self._forced:  # the rest of a marker of several tokens
            self._forced.popleft()
            if not self._forced:
                self._begin()
            return
        if self.matcher is not None:
            if token != start.tokens[0]:
                self.phase = "answer"
                self._match([token])
            elif len(start.tokens) > 1:
                self._forced.extend(start.tokens[1:])
            else:
                self._begin()
            return
        self._seen += self._text.add(token)
        begun = self._seen.lstrip()
        if start.text in begun:
            self._begin()
        elif begun and not start.text.startswith(begun):
            self.phase = "answer"

    def _begin(self) -> None:
        self.phase, self._seen = "thinking", ""
        self.matcher = self._behind
        self._check_budget()

    def _think(self, token: int) -> None:
        thinking = self._thinking
        assert thinking is not None
        end = thinking.end
        self._count += 1
        self._seen += self._text.add(token)
        head, found, rest = self._seen.partition(end.text)
        if self.matcher is not None and self._call and (at := head.find(self._call)) >= 0:
            found, rest = self._call, head[at:]
        if found:
            self.phase, self._seen = "answer", ""
            if self.matcher is not None and rest.strip():  # the marker ended within a token
                self._match(self._encode(rest.lstrip()))
            return
        self._seen = head[-max(len(end.text), len(self._call or "")) :]
        self._check_budget()

    def _check_budget(self) -> None:
        thinking = self._thinking
        if self.phase == "thinking" and thinking is not None and thinking.budget is not None:
            if self._count >= thinking.budget:
                self.phase = "closing"
                self._forced.extend(thinking.end.tokens)

    def _match(self, tokens: list[int]) -> None:
        matcher = self.matcher
        if matcher is not None and not (matcher.is_stopped() and not matcher.is_error()):
            if not matcher.consume_tokens(tokens):
                raise astray(matcher)
            if matcher.is_stopped() and not matcher.is_accepting():
                raise Astray("its grammar leads to where nothing can follow")


def astray(matcher: Matcher) -> Astray:
    return Astray(f"its grammar cannot be followed any further: {short(matcher.get_error())}")
