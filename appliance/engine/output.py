"""From token ids to the text a client may see, and its parts where it has some.

Text is held back while it may still change (half a character) or may turn out to be the start of a
stop string, so that no part of a stop string is ever sent. Whatever the tokens' borders, the result is
the one that reading character by character would give: the stop string that is complete first wins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from appliance.engine import token_bytes
from appliance.engine.answer.plan import PLAIN, Plan
from appliance.engine.answer.splitting import Part, Splitter


@dataclass(slots=True)
class Piece:
    """New text, and the stop string that ended it, if one did.

    parts: of an answer that may have more than text, instead of `text`. done: it is complete, whatever comes.
    """

    text: str
    stop: str | None = None
    parts: tuple[Part, ...] | None = None
    done: bool = False

    def __add__(self, later: Piece) -> Piece:
        parts = None if self.parts is None else self.parts + (later.parts or ())
        return Piece(self.text + later.text, later.stop, parts, later.done)


class Stops:
    """Looks for stop strings in a stream of text."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> Piece:
        if not self._stops:
            return Piece(text)
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, stop = min(found)
            self._held = ""
            return Piece(text[:at], stop)
        keep = max(overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return Piece(text[: len(text) - keep])

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`, without being all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class Incremental:
    """A streaming detokenizer for any tokenizer, in linear time.

    mlx-lm's general one decodes the whole line again for each token. This one decodes a short window
    twice: with the new token and without it, since decoders may add or drop a space at the beginning.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._decode = tokenizer.decode
        self._window: list[int] = []
        self._old = 0  # tokens of the window that have been given out

    def add(self, token: int) -> str:
        self._window.append(token)
        whole = self._decode(self._window)
        if whole.endswith("\ufffd"):
            return ""
        return self._take(whole)

    def end(self) -> str:
        return self._take(self._decode(self._window)) if self._old < len(self._window) else ""

    def _take(self, whole: str) -> str:
        before = self._decode(self._window[: self._old])
        self._window = self._window[self._old :]
        self._old = len(self._window)
        return str(whole[len(before) :])


class Streaming:
    """One of mlx-lm's linear detokenizers, kept linear: it would keep all text and tokens it ever saw."""

    def __init__(self, detokenizer: Any, goes_on: bool) -> None:
        """goes_on: the text is the rest of another, so that a space at its beginning is part of it."""
        self._inner = detokenizer
        if goes_on:
            self._begun()

    def add(self, token: int) -> str:
        self._inner.add_token(token)
        return self._take()

    def end(self) -> str:
        self._inner.finalize()
        return self._take()

    def _take(self) -> str:
        inner = self._inner
        text: str = inner.last_segment
        if text:
            self._begun()
        inner.tokens.clear()
        return text

    def _begun(self) -> None:
        self._inner.text = "."  # not empty: the first text of all is trimmed, and this is no longer it
        self._inner.offset = 1


def detokenizer(tokenizer: Any, goes_on: bool = False) -> Streaming | Incremental:
    """A fresh streaming detokenizer for one row."""
    inner = tokenizer.detokenizer
    if "text" in vars(inner):  # the general one has it as a property that decodes anew
        return Streaming(inner, goes_on)
    return Incremental(tokenizer)


class Output:
    """The text of one row, and its parts where `plan` names some."""

    def __init__(
        self, tokenizer: Any, stops: tuple[str, ...], plan: Plan = PLAIN, *, goes_on: bool = False
    ) -> None:
        """goes_on: it continues a text, and is no answer that begins anew."""
        self.thought = 0  # tokens of reasoning, with the markers around it
        self.told = 0  # of them, when that was last told
        self._tokenizer = tokenizer
        self._detokenizer = detokenizer(tokenizer, goes_on)
        self._stops = Stops(stops)
        self._splitter = None if plan.plain else Splitter(plan, stops)

    @property
    def reasoning(self) -> bool:
        """Whether the model thinks, as far as its tokens have been read."""
        return self._splitter is not None and self._splitter.reasoning

    @property
    def bytes_of(self) -> Callable[[int], bytes]:
        """What one token stands for."""
        return token_bytes.of(self._tokenizer)

    def settle(self) -> None:
        """The answer has begun, and is text to its end, whatever it looks like."""
        if self._splitter is not None:
            self._splitter.settle()

    def push(self, token: int) -> Piece:
        text = self._detokenizer.add(token)
        if self._splitter is None:
            return self._stops.push(text)
        return self._split(self._splitter, text)

    def end(self, *, cut: bool = False) -> Piece:
        """What was held back, at the end of the row; a stop string may be complete only now.

        cut: it ends for want of tokens, not by itself.
        """
        text = self._detokenizer.end()
        if self._splitter is not None:
            self._splitter.push(text)
            self._splitter.end(cut=cut)
            return Piece("", self._splitter.stop, tuple(self._splitter.take()))
        piece = self._stops.push(text)
        return piece if piece.stop else Piece(piece.text + self._stops.flush())

    def _split(self, splitter: Splitter, text: str) -> Piece:
        before = splitter.reasoning
        if text:
            splitter.push(text)
        self.thought += before or splitter.reasoning
        return Piece("", splitter.stop, tuple(splitter.take()), splitter.done)
