"""Masks over the logits of a batch, bit by bit against what the grammar's own matcher says."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core
import pytest
from transformers import AutoTokenizer

from appliance.engine.constraint import compiler, masks
from appliance.engine.constraint.guide import Guide, Marker, Thinking
from appliance.engine.output import Incremental
from appliance.engine.row import Row
from tests.engine.stand import job

mx: Any = mlx.core

DEMO = Path(__file__).parents[2] / "examples" / "models" / "lmx-demo-mini"
GRAMMARS = ("[a-z]{1,20}!", r'\{"a": [0-9]{2,9}\}', "(yes|no|maybe), .{3,9}[xyz]", r"\d+", "[é漢]{3}")
WORD = 32  # tokens in one word of a mask


class Wrapped:
    """As mlx-lm wraps a tokenizer, as far as a compiler looks."""

    def __init__(self) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(DEMO)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return Wrapped()._tokenizer


@pytest.fixture(scope="module")
def compile_() -> Callable[[str], Any]:
    """A fresh matcher of a regular expression."""
    from llguidance import LLMatcher

    wrapped = Wrapped()
    made = compiler.Compiler(wrapped, len(wrapped._tokenizer), frozenset({2}))

    def fresh(pattern: str) -> Any:
        return made.compile(LLMatcher.grammar_from_regex(pattern)).deep_copy()

    return fresh


def row(guide: Guide | None) -> Row:
    def first(logits: Any) -> Any:
        return mx.argmax(logits, axis=-1)

    return Row(job=job(1), output=Any, sampler=first, processor=None, guide=guide)  # type: ignore[arg-type]


def guide(tokenizer: Any, matcher: Any, thinking: Thinking | None = None, **more: Any) -> Guide:
    return Guide(matcher, thinking, Incremental(tokenizer), width=len(tokenizer), **more)


def allowed(logits: Any, index: int) -> set[int]:
    return {token for token, value in enumerate(logits[index].tolist()) if value > -math.inf}


def taken(matcher: Any, width: int) -> set[int]:
    """What the matcher takes next, by its own bytes."""
    bits = matcher.deep_copy().compute_bitmask()
    return {token for token in range(width) if bits[token // 8] >> token % 8 & 1}


@pytest.mark.parametrize("wider", [0, 1, WORD, 100])
def test_each_row_gets_what_it_may_and_nothing_else(tokenizer: Any, compile_: Any, wider: int) -> None:
    """Also where the model has more logits than tokens: the rest may never come under a grammar."""
    width = len(tokenizer)
    matchers = [compile_(pattern) for pattern in GRAMMARS]
    thinking = Thinking(Marker("<think>", (31,)), Marker("</think>", (63, 64)), inside=True)
    closing = Thinking(thinking.start, thinking.end, inside=True, budget=0)
    opening = Thinking(thinking.start, thinking.end, inside=False)
    banned = frozenset({2, 31, 32, width - 1})
    guides = [
        *(guide(tokenizer, matcher) for matcher in matchers),
        guide(tokenizer, compile_("x+"), thinking, banned=banned),
        guide(tokenizer, compile_("x+"), closing),
        guide(tokenizer, compile_("x+"), opening, behind=compile_("y+")),
        guide(tokenizer, None, thinking),
    ]
    rows = [row(None), *(row(found) for found in guides)]
    guided = [(index, one) for index, one in enumerate(rows) if one.guide is not None]
    logits = mx.zeros((len(rows), width + wider))

    found = masks.apply(guided, logits)

    everything = set(range(width + wider))
    wanted = [
        everything,
        *(taken(matcher, width) for matcher in matchers),
        everything - banned,
        {63},
        taken(compile_("x+"), width) | {31},
        everything,
    ]
    assert [one.failed for one in rows] == [None] * len(rows)
    assert all(0 < len(mine) < width for mine in wanted[1:6])  # else this would show nothing
    assert [allowed(found, index) for index in range(len(rows))] == wanted


def test_rows_that_follow_nothing_yet_leave_the_logits_alone(tokenizer: Any) -> None:
    thinking = Thinking(Marker("<think>", (31,)), Marker("</think>", (63,)), inside=True)
    logits = mx.zeros((1, len(tokenizer)))
    assert masks.apply([(0, row(guide(tokenizer, None, thinking)))], logits) is logits


def test_slow_masks_are_finished_in_threads(
    tokenizer: Any, compile_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = len(tokenizer)
    alone = compiler.fill([compile_(pattern) for pattern in GRAMMARS], width)
    handed: list[int] = []
    threads = compiler._in_threads

    def counted(matchers: list[Any], bits: Any) -> None:
        handed.append(len(matchers))
        threads(matchers, bits)

    monkeypatch.setattr(compiler, "PATIENCE", -1.0)
    monkeypatch.setattr(compiler, "_in_threads", counted)
    shared = compiler.fill([compile_(pattern) for pattern in GRAMMARS], width)

    assert handed == [len(GRAMMARS) - 1]
    assert (alone == shared).all()
    assert alone.any(axis=1).all()


def test_a_row_whose_matcher_is_lost_fails_alone(tokenizer: Any, compile_: Any) -> None:
    lost, good = compile_("[a-z]+"), compile_("[a-z]+")
    assert not lost.consume_tokens([tokenizer.encode("5", add_special_tokens=False)[0]])
    rows = [row(guide(tokenizer, lost)), row(guide(tokenizer, good))]

    found = masks.apply(list(enumerate(rows)), mx.zeros((2, len(tokenizer))))

    assert rows[0].failed is not None
    assert "cannot be followed any further" in rows[0].failed
    assert rows[1].failed is None
    assert allowed(found, 1) == taken(good, len(tokenizer))
