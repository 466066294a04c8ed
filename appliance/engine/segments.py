"""Conversations as tokens, of which only what is new is encoded.

A conversation comes back whole with every turn, and its tokenizer would read it whole again: 11 ms for 8,000
tokens, a quarter of the time to the first token of a turn whose prompt is cached. But a tokenizer first cuts
a text at its special tokens (`<|im_start|>`), before it normalises anything, and what stands on one side of
a cut has no influence on the other. So a text is taken apart there, in *segments* that begin with a special
token, and those that were seen before are known.

This holds for the `tokenizers` library (AddedVocabulary::extract_and_normalize), where special tokens take
no white space with them. Whether it does for this tokenizer is tried on a text of its own before it is
relied on; where it does not, every text is encoded whole.

Segments are known per scope: with `cache.share: key`, the time that an answer takes must not tell one key
what another one has said.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
from array import array
from collections import OrderedDict
from typing import Any

log = logging.getLogger(__name__)

MOST = 2**24  # bytes of texts and tokens that are kept
EACH = 300  # bytes that a segment takes beside its text and tokens: a text of nothing but marks has many
MARKS = 64  # special tokens; some tokenizers have thousands in reserve
WORDS = ("", "hello", " hello", "\nuser\nIt's 10  past.\n", "hello \n ", "\u00fcber ", "\u4f60\u597d", "{}")


class Segments:
    """Of one tokenizer, mlx-lm's TokenizerWrapper. For any thread."""

    def __init__(self, tokenizer: Any, template: str = "") -> None:
        """template: the text of its chat template."""
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], array[int]] = OrderedDict()
        self._bytes = 0
        marks = _marks(tokenizer, template)
        self._marks = re.compile("|".join(map(re.escape, marks)))
        self.works = bool(marks) and self._agrees(marks)  # texts are taken apart

    def encode(self, text: str, scope: str, *, keep: bool = True) -> list[int]:
        """The tokens of a text, without any that the tokenizer would put around it.

        scope: whose texts may be known. keep: whether this one may be kept.
        """
        if not self.works:
            return list(self._tokenizer.encode(text, add_special_tokens=False))
        if not keep:
            self.clear()
        tokens: list[int] = []
        with self._lock:
            for segment in self._split(text):
                key = scope, segment
                known = self._known.get(key)
                if known is not None:
                    self._known.move_to_end(key)
                else:
                    known = array("I", self._read(segment))
                    if keep:
                        self._keep(key, known)
                tokens.extend(known)
        return tokens

    def clear(self) -> None:
        """Know nothing."""
        with self._lock:
            self._known.clear()
            self._bytes = 0

    def _keep(self, key: tuple[str, str], tokens: array[int]) -> None:
        self._known[key] = tokens
        self._bytes += _size(key, tokens)
        while self._bytes > MOST:
            self._bytes -= _size(*self._known.popitem(last=False))

    def _split(self, text: str) -> list[str]:
        cuts = [match.start() for match in self._marks.finditer(text)]
        places = [0, *(cut for cut in cuts if cut), len(text)]
        return [text[begin:end] for begin, end in itertools.pairwise(places)]

    def _read(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _agrees(self, marks: list[str]) -> bool:
        """Whether a text with each of them in several places is the same in parts as whole."""
        probe = "hello" + "".join(mark + word for mark in marks for word in WORDS)
        parts = [token for segment in self._split(probe) for token in self._read(segment)]
        if parts == list(self._tokenizer.encode(probe, add_special_tokens=False)):
            return True
        log.info("this tokenizer does not read the parts of a conversation one by one; it reads the whole")
        return False


def _marks(tokenizer: Any, template: str) -> list[str]:
    """The special tokens that a text can be cut before: the template's, where there are many.

    They are those that the tokenizer finds before it normalises, that take nothing but themselves out of a
    text, and that no other token can cover a part of.
    """
    if not getattr(tokenizer, "is_fast", False) or getattr(tokenizer, "split_special_tokens", False):
        return []
    added = [token for token in tokenizer.added_tokens_decoder.values() if token.content]
    if any(token.single_word for token in added):
        return []
    early = [token.content for token in added if not token.normalized]
    special = {token.content for token in added if token.special and not (token.normalized or _greedy(token))}
    if len(special) > MARKS:
        named = {tokenizer.bos_token, tokenizer.eos_token}
        special = {token for token in special if token in template or token in named}
    found = sorted(special)[:MARKS]
    return [mark for mark in found if not any(_covers(other, mark) for other in early)]


def _greedy(token: Any) -> bool:
    return bool(token.lstrip or token.rstrip)


def _covers(other: str, mark: str) -> bool:
    """Whether `other`, found first, can leave less than the whole of `mark`."""
    if other == mark:
        return False
    return mark in other or other.endswith(tuple(mark[:end] for end in range(1, len(mark))))


def _size(key: tuple[str, str], tokens: array[int]) -> int:
    return EACH + 2 * len(key[1]) + 4 * len(tokens)  # two bytes a character are enough for most scripts
