"""llguidance: grammars compiled once, and copied for each row that follows one.

It is imported with the first grammar, and its copy of the tokenizer made then, once: 40 ms and 6 MB for the
demo model's thousand tokens; for 151,936 tokens 1.7 s of processor time and 120 MB. It holds Python's lock
meanwhile, so that streams pause once for that long.

Nothing that a client sends can keep it busy or fill the memory: `bounds` limits what comes in, and `LIMITS`
what may grow out of it. Compiled grammars are kept, so that the schema of every turn of an agent is compiled
once; a row gets a copy, which takes microseconds.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections import OrderedDict
from typing import Any

import numpy as np

KEPT = 32  # compiled grammars
THREADS = 8  # that fill masks, at most
PATIENCE = 0.001  # seconds of a step's masks in one thread, before several take over
# 1 to 2 kB a state of the lexer (llguidance's documentation): 20 to 40 MB at the very most for one row. Fuel
# and items are per token, and about 15 and 5 ms. Messages without the grammar's inside.
LIMITS: dict[str, Any] = {
    "max_lexer_states": 20_000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 100_000,
    "max_items_in_row": 40_000,  # four for each property that may come: more than `bounds` lets in
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}

_QUOTE = re.compile(r"\d+ \|")  # of the grammar
_PLACE = re.compile(r"^at \d+\(\d+\): |failed to compile JSON schema: ")
_executor: Any = None


class Unsupported(ValueError):
    """llguidance cannot follow it; says why."""


class Compiler:
    """Of one loaded model. Safe from any thread."""

    def __init__(self, tokenizer: Any, vocabulary: int, end_tokens: frozenset[int]) -> None:
        """tokenizer: mlx-lm's TokenizerWrapper. vocabulary: width of the logits."""
        self._inner = tokenizer._tokenizer
        self._vocabulary = vocabulary
        self._end_tokens = sorted(end_tokens)
        self._lock = threading.Lock()
        self._ll: Any = None
        self._known: OrderedDict[str, Any] = OrderedDict()
        self._specials: dict[str, int] | None = None

    @property
    def ll(self) -> Any:
        """llguidance's copy of the tokenizer. Raises Unsupported."""
        if self._ll is None:
            self._ll = self._copy()
        return self._ll

    def _copy(self) -> Any:
        import llguidance.hf

        try:
            made = llguidance.hf.from_tokenizer(
                self._inner, n_vocab=self._vocabulary, eos_token=self._end_tokens
            )
        except Exception as error:
            raise Unsupported(f"llguidance does not know this model's kind of tokenizer: {error}") from error
        text = 'a {"b": [1, "é"]}\n\n'
        tokens = self._inner.encode(text, add_special_tokens=False)
        if made.decode_str(tokens).strip() != self._inner.decode(tokens).strip():
            raise Unsupported("llguidance reads this model's tokens differently from its own tokenizer")
        return made

    @property
    def specials(self) -> dict[str, int]:
        """Tokens that no text is made of, such as the markers of tool calls, by their text."""
        if self._specials is None:
            added = self._inner.get_added_vocab()
            self._specials = {text: token for text, token in added.items() if self.ll.is_special_token(token)}
        return self._specials

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in self.ll.tokenize_str(text)]

    def compile(self, grammar: str) -> Any:
        """A matcher at its beginning, to be copied. grammar: in llguidance's own form. Raises Unsupported."""
        with self._lock:
            if (found := self._known.get(grammar)) is not None:
                self._known.move_to_end(grammar)
                return found
            from llguidance import LLMatcher
            from llguidance._lib import LLParserLimits

            made = LLMatcher(self.ll, grammar, log_level=0, limits=LLParserLimits(**LIMITS))
            if not made.is_error():
                made.compute_bitmask()  # the first mask is the dearest, and may find that none is possible
            if made.is_error():
                raise Unsupported(short(made.get_error()))
            self._known[grammar] = made
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
            return made


def short(message: str) -> str:
    """llguidance's reason, without the place in its own source of the grammar."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and "<non-verbose/>" not in line]
    if not lines or lines[0].startswith("NoExtension"):
        return "there is nothing that it allows"
    if lines[0].startswith("panic:"):  # llguidance counts symbols in 16 bits
        return "it is too large"
    said = list(itertools.takewhile(lambda line: not _QUOTE.match(line), lines)) or lines[:1]
    return _PLACE.sub("", " ".join(said))[:300]


def fill(matchers: list[Any], width: int) -> Any:
    """What each may consume next, a bit per token: (matchers, words of 32 tokens), int32, of numpy.

    width: tokens that the matchers know. Nearly always this is quick (0.05 ms for eight rows, 0.2 with
    150,000 tokens), and waking threads for it costs more than it saves, above all where the device's own
    threads want the processor. What has not begun after PATIENCE goes to threads.
    """
    words = (width + 31) // 32
    bits = np.zeros((len(matchers), words), dtype=np.int32)
    address, began = bits.ctypes.data, time.perf_counter()
    for number, matcher in enumerate(matchers):
        matcher.unsafe_compute_mask_ptr(address + 4 * words * number, 4 * words)
        if len(matchers) - number > 2 and time.perf_counter() - began > PATIENCE:
            _in_threads(matchers[number + 1 :], bits[number + 1 :])
            break
    return bits


def _in_threads(matchers: list[Any], bits: Any) -> None:
    global _executor
    from llguidance.numpy import fill_next_token_bitmask_par

    if _executor is None:
        from llguidance._lib import LLExecutor

        _executor = LLExecutor(max(1, min(THREADS, (os.cpu_count() or 2) // 2)))
    fill_next_token_bitmask_par(_executor, [(m, i) for i, m in enumerate(matchers)], bits)
