"""What a request asks its tokens to follow, checked and compiled before it starts. On the intake thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from appliance.engine.constraint.compiler import Compiler
from appliance.engine.constraint.guide import Guide, Thinking
from appliance.engine.output import detokenizer


@dataclass(frozen=True)
class Guiding:
    """matcher: at its beginning, shared by all requests with that grammar; None: the answer is free.

    banned: tokens that must not come while it thinks.
    """

    compiler: Compiler
    matcher: Any = None
    thinking: Thinking | None = None
    banned: frozenset[int] = frozenset()

    def guide(self, tokenizer: Any) -> Guide:
        """For one row."""
        free = self.matcher is None
        return Guide(
            None if free else self.matcher.deep_copy(),
            self.thinking,
            detokenizer(tokenizer),
            width=0 if free else int(self.compiler.ll.vocab_size),
            encode=self.compiler.encode,
            banned=self.banned,
        )
