"""What the parent is told of a row: its newest text and parts, and how it ended."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from appliance.engine.answer.splitting import Kind, Part
from appliance.engine.load import is_memory
from appliance.engine.row import Row
from appliance.wire import CallPart, Finish, Logprob, More
from appliance.wire import Row as Line

log = logging.getLogger(__name__)

# Within one line the order is this one; what comes in another takes a second line.
_ORDER: dict[Kind, int] = {"reasoning": 0, "text": 1, "call": 2}


def newest(row: Row, token: int, end_tokens: frozenset[int]) -> list[Line]:
    """Of a row's newest token; empty: nothing to see yet. The last has `finish` where the row ends."""
    job = row.job
    finish: Finish | None = None
    try:
        whole = row.guide is not None and row.guide.ended
        if token in end_tokens and (whole or not job.ignore_eos):
            piece, finish = row.output.end(), "stop"
            if row.likely:
                row.likely.pop()  # it is no text
        else:
            piece = row.output.push(token)
            if piece.stop is not None or piece.done:
                finish = "stop"
            elif whole:  # nothing could follow but the end of the text
                piece += row.output.end()
                finish = "stop"
            elif row.produced >= job.max_tokens:
                piece += row.output.end(cut=True)
                finish = "length" if piece.stop is None else "stop"
        if piece.parts is not None or row.likely:
            return several(row, piece.parts or (("text", piece.text),), finish, piece.stop)
    except Exception as error:
        log.exception("cannot detokenise token %d", token)
        return [failed(row, f"token {token} cannot be written as text: {describe(error)}")]
    if finish is None and not piece.text:
        return []
    return [Line(job.rid, piece.text, row.produced, finish, None, piece.stop)]


@dataclass
class _Draft:
    """One line in the making."""

    text: str = ""
    reasoning: str = ""
    calls: list[CallPart] = field(default_factory=list)
    warning: str | None = None
    logprobs: list[Logprob] = field(default_factory=list)
    thought: int = 0
    at: int = 0  # the last of what it has, by `_ORDER`

    def add(self, kind: Kind, value: str | CallPart) -> bool:
        """False: it takes another line."""
        if isinstance(value, CallPart):
            self.calls.append(value)
        elif kind == "warning":
            if self.warning is not None:
                return False
            self.warning = value
        elif _ORDER[kind] < self.at:
            return False
        elif kind == "reasoning":
            self.reasoning += value
        else:
            self.text += value
        self.at = max(self.at, _ORDER.get(kind, 0))
        return True

    def more(self) -> More | None:
        if self.reasoning or self.calls or self.logprobs or self.warning is not None or self.thought:
            return More(self.reasoning, self.calls, self.logprobs, self.warning, self.thought)
        return None


def several(row: Row, parts: tuple[Part, ...], finish: Finish | None, stop: str | None) -> list[Line]:
    """Lines of an answer with parts or log-probabilities. Those of text that is held back come with it."""
    drafts: list[_Draft] = []
    for kind, value in parts:
        if value and not (drafts and drafts[-1].add(kind, value)):
            drafts.append(_Draft())
            drafts[-1].add(kind, value)
    if not drafts and finish is None:
        return []
    drafts = drafts or [_Draft()]
    if row.likely:
        drafts[0].logprobs = logprobs(row)
    if row.output.thought != row.output.told:
        drafts[0].thought = row.output.told = row.output.thought
    for draft in drafts:
        draft.thought = row.output.thought if draft.reasoning else draft.thought
    rid, tokens, last = row.job.rid, row.produced, drafts.pop()
    told = [Line(rid, draft.text, tokens, more=draft.more()) for draft in drafts]
    return [*told, Line(rid, last.text, tokens, finish, None, stop, last.more())]


def logprobs(row: Row) -> list[Logprob]:
    """Those that have not been sent."""
    of = row.output.bytes_of
    told = [
        Logprob(of(token), likely.logprob, [(of(other), logprob) for other, logprob in likely.top])
        for token, likely in row.likely
    ]
    row.likely.clear()
    return told


def failed(row: Row, message: str) -> Line:
    return Line(row.job.rid, "", row.produced, "error", message, code=row.code)


def cancelled(row: Row) -> Line:
    return Line(row.job.rid, "", row.produced, "cancelled")


def describe(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return f"there was not enough memory for this step: {text}" if is_memory(error) else text
