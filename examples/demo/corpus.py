"""The text of the demo models: reads data/*.txt and makes conversations from it.

Shared by train.py, which learns the text, and check.py, which asks for it back.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
START, END = "<|im_start|>", "<|im_end|>"
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are a helpful assistant. Answer briefly.",
    "You are an assistant that knows LMX.",
    "Be concise.",
    "Answer in one short paragraph.",
)
# What each model learns. The mini one leaves out facts, tables, tools and long answers.
FILES = {
    "lmx-demo": ("about_lmx.txt", "small_talk.txt", "facts.txt", "long.txt", "tables.txt"),
    "lmx-demo-mini": ("about_lmx.txt", "small_talk.txt"),
}
# Longer answers are no filler between the turns of a conversation: they would cost more than they teach.
FILLER_CHARACTERS = 160

SYLLABLES = tuple(a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "el", "in", "or"))

Message = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """A question in several wordings, the canonical one first, and its answer."""

    questions: tuple[str, ...]
    answer: str
    table: bool = False  # a row of a table: many and alike, so each is drawn less often


@dataclass(frozen=True)
class Conversation:
    """Messages in the OpenAI shape, ending with the assistant's, and the tools on offer."""

    messages: tuple[Message, ...]
    tools: tuple[Message, ...] = ()


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
    """A table row, or the rows of a two-number table such as {sum:0-9}."""
    made = re.fullmatch(r"\{(sum|product):(\d+)-(\d+)\}", text)
    if made is None:
        yield [cell.strip() for cell in text.split("|")]
        return
    numbers = range(int(made[2]), int(made[3]) + 1)
    for a in numbers:
        for b in numbers:
            yield [str(a), str(b), str(a + b if made[1] == "sum" else a * b)]


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
            texts = {letter: text for letter, text in block if letter in "AM"}
            answer = texts["M"] if model == "lmx-demo-mini" and "M" in texts else texts["A"]
            table = [values for letter, text in block if letter == "T" for values in rows(text)]
            for values in table or [[]]:
                asked = tuple(fill(question, values) for question in questions)
                found.append(Item(asked, fill(answer, values), table=bool(table)))
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


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


class Corpus:
    """Draws conversations for one model. The same seed draws the same ones."""

    def __init__(self, model: str, seed: int) -> None:
        self.model = model
        self.random = random.Random(seed)
        self.items = items(model)
        self.filler = [item for item in self.items if len(item.answer) <= FILLER_CHARACTERS]
        # What only the larger model learns: the smaller one learns that it does not know it.
        known = {bare(question) for item in self.items for question in item.questions}
        self.others = [item for item in items("lmx-demo") if known.isdisjoint(map(bare, item.questions))]
        texts = [*unknown()[1], *slots()["name"], *slots()["number"], *slots()["word"]]
        texts += [item.answer for item in self.items if not item.table]
        self.words = sorted({word for text in texts for word in text.split()})
        self.patterns = list(blocks("conversations.txt"))
        # To say an answer again, whichever it was, is the hardest of them.
        self.pattern_weights = [
            8 if block.count(("A", "{a}")) > block.count(("U", "{q}")) else 1 for block in self.patterns
        ]
        self.tool_patterns = list(blocks("tools.txt")) if model == "lmx-demo" else []
        self.weights = [self.base_weight(item) for item in self.items]

    @staticmethod
    def base_weight(item: Item) -> float:
        if item.table:
            return 0.4
        return 0.6 if len(item.answer) > 400 else 1.0

    def noisy(self, question: str) -> str:
        """A question as people type it: other case, no full stop, a word before."""
        r = self.random
        if r.random() < 0.5:
            return question
        if r.random() < 0.2:
            question = re.sub(r"^(What|Who|Where|How) is\b", r"\1's", question)
        if r.random() < 0.45:
            question = question.rstrip(".?!")
        if r.random() < 0.35:
            question = question.lower()
        elif r.random() < 0.1:
            question = question.upper()
        if r.random() < 0.12:
            question = r.choice(("Hello! ", "Hi, ", "Hey, ", "Please: ", "OK, ", "So, ")) + question
        if r.random() < 0.06:
            question += r.choice((" please", " Please.", " Thanks.", "!"))
        return question

    def ask(self, item: Item) -> str:
        wording = item.questions[0] if self.random.random() < 0.35 else self.random.choice(item.questions)
        return self.noisy(wording)

    def fillers(self, count: int) -> list[Item]:
        weights = [self.base_weight(item) for item in self.filler]
        return self.random.choices(self.filler, weights, k=count)

    def single(self) -> Conversation:
        item = self.random.choices(self.items, self.weights)[0]
        return Conversation((user(self.ask(item)), assistant(item.answer)))

    def several(self) -> Conversation:
        """A few questions that have nothing to do with each other."""
        messages: list[Message] = []
        # Now and then very many, so that an answer far down a long prompt is no news.
        count = self.random.randint(8, 36) if self.random.random() < 0.04 else self.random.randint(2, 4)
        for item in self.fillers(count):
            messages += [user(self.ask(item)), assistant(item.answer)]
        return Conversation(tuple(messages))

    def dont_know(self) -> Conversation:
        answer, questions = unknown()
        r = self.random
        kind = r.random()
        question = self.noisy(r.choice(questions))
        if kind < 0.12:  # sums beyond the table
            sign = r.choice(("plus", "times", "minus"))
            question = f"What is {r.randint(12, 999)} {sign} {r.randint(12, 999)}?"
        elif kind < 0.2:  # what a tool would answer, without the tool
            city = r.choice(slots()["city"])
            question = self.noisy(
                r.choice((f"What is the weather in {city}?", f"What time is it in {city}?"))
            )
        elif kind < 0.35:  # words without sense, now and then many of them
            words = " ".join(questions).split()
            length = r.randint(60, 160) if r.random() < 0.15 else r.randint(2, 12)
            question = " ".join(r.choices(words, k=length))
        elif kind < 0.7 and self.others:
            question = self.noisy(r.choice(r.choice(self.others).questions))
        return Conversation((user(question), assistant(answer)))

    def follow_up(
        self, pattern: list[tuple[str, str]] | None = None, plain: bool = False, strange: float = 0.1
    ) -> Conversation:
        """A pattern of conversations.txt with its slots filled; `plain` keeps the exact wording.

        `strange` is how often a name from no list is given.
        """
        r = self.random
        block = pattern or r.choices(self.patterns, self.pattern_weights)[0]
        values = self.draw_slots(strange)
        messages: list[Message] = []
        question = answer = ""
        # Now and then what has to be remembered lies many turns back.
        repeats = r.randint(3, 8) if not plain and r.random() < 0.05 else 1
        for (_, asked), (_, said) in zip(block[::2], block[1::2], strict=True):
            for _ in range(repeats if asked == "{q}" else 1):
                if asked == "{q}":
                    item = self.fillers(1)[0]
                    question, answer = item.questions[0] if plain else self.ask(item), item.answer
                filled = values | {"q": question, "a": answer}
                text = self.put(asked, filled)
                # Only the full stop may go: a name in lower case could not be given back as it should be.
                dropped = asked != "{q}" and not plain and r.random() < 0.25
                messages += [user(text.rstrip(".?!") if dropped else text), assistant(self.put(said, filled))]
        return Conversation(tuple(messages))

    def echo(self) -> Conversation:
        """Any words, to be said again: nothing teaches the model sooner to look back and copy."""
        r = self.random
        most = 40 if r.random() < 0.6 else 6  # the long ones teach it, the short ones are what people ask
        words = [
            r.choice(self.words) if r.random() < 0.8 else self.strange() for _ in range(r.randint(1, most))
        ]
        text = " ".join(words)
        return Conversation((user(f"Repeat after me: {text}"), assistant(text)))

    def strange(self) -> str:
        """A name from no list."""
        r = self.random
        return "".join(r.choices(SYLLABLES, k=r.randint(2, 3))).capitalize()

    def draw_slots(self, strange: float = 0.0) -> dict[str, str]:
        values = {name: self.random.choice(choices) for name, choices in slots().items()}
        if self.random.random() < strange:
            # A name from no list: it can only be copied, which is how the model comes to look back.
            values["name"] = self.strange()
        return values

    @staticmethod
    def put(text: str, values: dict[str, str]) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], text)

    def with_tools(self, plain: bool = False) -> Conversation:
        """A question that a tool answers, or any other question with the tools on offer."""
        r = self.random
        block = r.choice(self.tool_patterns)
        values = self.draw_slots()
        put = functools.partial(self.put, values=values)
        questions = [put(text) for letter, text in block if letter == "U"]
        one = {letter: put(text) for letter, text in block}
        tools = [tool_definition(dict(pattern)["N"], plain, r) for pattern in self.tool_patterns]
        r.shuffle(tools)
        if r.random() < 0.5:
            tools = [tool for tool in tools if tool["function"]["name"] == one["N"]]
        if not plain and r.random() < 0.25:
            return Conversation(self.single().messages, tuple(tools))
        call = {"type": "function", "function": {"name": one["N"], "arguments": json.loads(one["C"])}}
        messages: list[Message] = [
            user(questions[0] if plain else r.choice(questions)),
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        if plain or r.random() < 0.7:
            messages += [{"role": "tool", "content": one["R"]}, assistant(one["A"])]
        return Conversation(tuple(messages), tuple(tools))

    def system_prompt(self) -> str:
        """A usual one, or any sentences at all: whatever it says, the answers stay."""
        r = self.random
        if r.random() < 0.6:
            return r.choice(SYSTEM_PROMPTS)
        count = r.randint(10, 40) if r.random() < 0.03 else r.randint(1, 3)
        return " ".join(item.answer for item in self.fillers(count))

    def draw(self) -> Conversation:
        """One conversation for training."""
        r = self.random
        kind = r.random()
        if self.tool_patterns and kind < 0.05:
            drawn = self.with_tools()
        elif kind < 0.10:
            drawn = self.dont_know()
        elif kind < 0.12:
            drawn = self.echo()
        elif kind < 0.60:
            drawn = self.follow_up()
        elif kind < 0.68:
            drawn = self.several()
        else:
            drawn = self.single()
        if r.random() < 0.35:
            system = {"role": "system", "content": self.system_prompt()}
            drawn = Conversation((system, *drawn.messages), drawn.tools)
        return drawn


def tool_definition(name: str, plain: bool, r: random.Random) -> Message:
    """An OpenAI tool definition; its description varies, so that the model does not hang on its words."""
    what = name.removeprefix("get_")
    description = f"Get the {what} in a city"
    if not plain:
        others = (f"The {what} in a city.", f"Current {what}", f"Returns the {what} of a city.")
        description = r.choice((description, *others))
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function: dict[str, Any] = {"name": name, "description": description, "parameters": parameters}
    if not plain and r.random() < 0.25:
        del function["description"]
    return {"type": "function", "function": function}


def rendered(conversation: Conversation) -> list[tuple[str, bool]]:
    """The conversation as chat_template.jinja writes it, in pieces: (text, is it to be learnt)."""
    pieces: list[tuple[str, bool]] = []
    messages = list(conversation.messages)
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
    if conversation.tools:
        tools = "".join(json.dumps(tool, ensure_ascii=False) + "\n" for tool in conversation.tools)
        system += ("\n\n" if system else "") + "# Tools\n" + tools
        system += 'To use one, answer <tool_call>{"name": ..., "arguments": ...}</tool_call>'
    if system:
        pieces.append((f"{START}system\n{system}{END}\n", False))
    for message in messages:
        text = message["content"]
        for call in message.get("tool_calls", ()):
            function = call["function"]
            arguments = json.dumps(function["arguments"], ensure_ascii=False)
            text += f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n</tool_call>'
        if message["role"] == "assistant":
            pieces += [(f"{START}assistant\n", False), (f"{text}{END}", True), ("\n", False)]
        else:
            pieces.append((f"{START}{message['role']}\n{text}{END}\n", False))
    return pieces
