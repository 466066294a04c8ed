"""What the demo models learn from: reads data/*.txt."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"
# What is thought before an answer, by file, where the block itself does not say.
THOUGHTS = {
    "about_lmx.txt": "This is about LMX. I know it.",
    "small_talk.txt": "This is small talk. A short answer will do.",
    "facts.txt": "They ask: {question} I know this.",
    "long.txt": "This takes a long answer. I go step by step.",
    "tables.txt": "I look it up.",
    "unknown.txt": "I have not learnt this. I say so.",
    "conversations.txt": "I look at what was said before.",
    "json.txt": "They want JSON. I pick out the values.",
}
# What each model learns. The mini one leaves out facts, tables, tools and long answers.
FILES = {
    "lmx-demo": ("about_lmx.txt", "small_talk.txt", "facts.txt", "long.txt", "tables.txt"),
    "lmx-demo-mini": ("about_lmx.txt", "small_talk.txt"),
}


@dataclass(frozen=True)
class Item:
    """A question in several wordings, the canonical one first, and its answer."""

    questions: tuple[str, ...]
    answer: str
    thought: str = ""  # what is thought before it, where thinking is asked for
    data: str = ""  # the answer as JSON
    table: bool = False  # a row of a table: many and alike, so each is drawn less often


def blocks(name: str) -> Iterator[list[tuple[str, str]]]:
    """The blocks of a data file as (letter, text) pairs; a line after a space goes on from above."""
    block: list[tuple[str, str]] = []
    for line in (DATA / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            if block:
                yield block
            block = []
        elif line.startswith(" "):
            letter, text = block[-1]
            block[-1] = (letter, f"{text}\n{line[1:]}")
        else:
            letter, _, text = line.partition(": ")
            block.append((letter, text))
    if block:
        yield block


def rows(text: str) -> Iterator[list[str]]:
    """A table row, or the rows of a two-number table such as {sum:0-9}: a, b, the result, the way there."""
    made = re.fullmatch(r"\{(sum|product):(\d+)-(\d+)\}", text)
    if made is None:
        yield [cell.strip() for cell in text.split("|")]
        return
    numbers = range(int(made[2]), int(made[3]) + 1)
    for a in numbers:
        for b in numbers:
            way = range(a, a + b + 1) if made[1] == "sum" else range(a, a * b + 1, a)
            yield [str(a), str(b), str(way[-1]), ", ".join(map(str, way))]


def _count(match: re.Match[str]) -> str:
    return ", ".join(str(n) for n in range(int(match[1]), int(match[2]) + 1)) + "."


def fill(text: str, values: list[str]) -> str:
    """Put a row's values into {0}, {1} ..., and the numbers into {count:A-B}."""
    for i, value in enumerate(values):
        text = text.replace(f"{{{i}}}", value)
    return re.sub(r"\{count:(\d+)-(\d+)\}", _count, text)


@functools.cache
def items(model: str) -> tuple[Item, ...]:
    """Every question the model learns."""
    found: list[Item] = []
    for file in FILES[model]:
        for block in blocks(file):
            questions = [text for letter, text in block if letter == "Q"]
            texts = {letter: text for letter, text in block if letter in "AMRJ"}
            answer = texts["M"] if model == "lmx-demo-mini" and "M" in texts else texts["A"]
            table = [values for letter, text in block if letter == "T" for values in rows(text)]
            for values in table or [[]]:
                asked, said = tuple(fill(question, values) for question in questions), fill(answer, values)
                thought = fill(texts.get("R", THOUGHTS[file]), values).replace("{question}", asked[0])
                data = (
                    fill(texts["J"], values)
                    if "J" in texts
                    else json.dumps({"answer": said}, ensure_ascii=False)
                )
                found.append(Item(asked, said, thought, data, table=bool(table)))
    _refuse_duplicates(found)
    return tuple(found)


def bare(question: str) -> str:
    """A question as the noise may leave it: no case, no final punctuation."""
    return question.lower().rstrip(".?!")


def _refuse_duplicates(found: list[Item]) -> None:
    """Two answers for one question cannot both be learnt, and would only show up as a missed threshold."""
    seen: dict[str, str] = {}
    for item in found:
        for question in item.questions:
            if seen.setdefault(bare(question), item.answer) != item.answer:
                raise ValueError(f"two answers for {question!r}")


@functools.cache
def slots() -> dict[str, tuple[str, ...]]:
    """The values that the slots of a conversation may take."""
    values: dict[str, tuple[str, ...]] = {}
    for line in (DATA / "slots.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        name, _, text = line.partition(": ")
        values[name] = tuple(text.split(", "))
    return values


@functools.cache
def unknown() -> tuple[str, tuple[str, ...]]:
    """The answer to what the models do not know, and questions that deserve it."""
    text = (DATA / "unknown.txt").read_text(encoding="utf-8")
    answer, *questions = [line for line in text.splitlines() if not line.startswith("#")]
    return answer.removeprefix("= "), tuple(questions)
