"""Makes conversations of the text in data/*.txt.

Shared by train.py, which learns them, and check.py, which asks for the answers.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import re
from typing import Any

from conversation import Conversation, Message, assistant, user
from material import THOUGHTS, Item, bare, blocks, fill, items, rows, slots, unknown

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are a helpful assistant. Answer briefly.",
    "You are an assistant that knows LMX.",
    "Be concise.",
    "Answer in one short paragraph.",
)
# How JSON is asked for: after the question, before it, or once and for all in the system prompt.
JSON_AFTER = (
    " Answer as JSON.", " Answer in JSON.", " Reply with JSON.", " Reply in JSON.", " Return JSON only.",
    " As JSON.", " As JSON, please.", " Give me JSON.",
)  # fmt: skip
JSON_BEFORE = ("As JSON: ", "In JSON: ", "Answer in JSON: ", "JSON: ")
JSON_SYSTEM = (
    "Answer in JSON.",
    "Answer with JSON only.",
    "Reply in JSON.",
    "Reply with a JSON object.",
    "You are a helpful assistant. Answer in JSON.",
    "You are a helpful assistant. Reply with JSON only.",
    "Respond in JSON format.",
)
JSON_SCHEMA = "Answer with JSON that matches this schema: "
# Longer answers are no filler between the turns of a conversation: they would cost more than they teach.
FILLER_CHARACTERS = 160

# Slots of tools.txt that are drawn a second time, as {city2}.
TWICE = ("city", "sky", "number", "clock")


SYLLABLES = tuple(a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "el", "in", "or"))


class Corpus:
    """Draws conversations for one model. The same seed draws the same ones."""

    def __init__(self, model: str, seed: int) -> None:
        self.model = model
        self.random = random.Random(seed)
        self.items = items(model)
        self.filler = [item for item in self.items if len(item.answer) <= FILLER_CHARACTERS]
        self.short = frozenset(self.filler)
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
        self.json_patterns = list(blocks("json.txt")) if model == "lmx-demo" else []
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
        return Conversation((user(self.ask(item)), assistant(item.answer)), thought=item.thought)

    def several(self) -> Conversation:
        """A few questions that have nothing to do with each other."""
        messages: list[Message] = []
        # Now and then very many, so that an answer far down a long prompt is no news.
        count = self.random.randint(8, 36) if self.random.random() < 0.04 else self.random.randint(2, 4)
        for item in self.fillers(count):
            messages += [user(self.ask(item)), assistant(item.answer)]
        return Conversation(tuple(messages), thought=item.thought)

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
        return Conversation((user(question), assistant(answer)), thought=THOUGHTS["unknown.txt"])

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
        return Conversation(tuple(messages), thought=THOUGHTS["conversations.txt"])

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

    def with_tools(
        self, plain: bool = False, block: list[tuple[str, str]] | None = None, thinking: float = 0.0
    ) -> Conversation:
        """A question that a tool answers, or any other question with the tools on offer.

        `thinking` is how often the calls are thought about first; `plain` keeps the exact wording.
        """
        r = self.random
        block = block or r.choice(self.tool_patterns)
        values = self.draw_slots()
        values |= {f"{name}2": r.choice([v for v in slots()[name] if v != values[name]]) for name in TWICE}
        found: dict[str, list[str]] = {}
        for letter, text in block:
            found.setdefault(letter, []).append(self.put(text, values))
        name, answer = found["N"][0], found["A"][0]
        calls = [json.loads(text) for text in found["C"]]
        parameters = {dict(p)["N"]: list(json.loads(dict(p)["C"])) for p in self.tool_patterns}
        tools = [tool_definition(tool, keys, plain, r) for tool, keys in parameters.items()]
        r.shuffle(tools)
        if r.random() < 0.5:
            tools = [tool for tool in tools if tool["function"]["name"] == name]
        if not plain and r.random() < 0.25:
            other = self.single()
            return Conversation(other.messages, tuple(tools), thought=other.thought)
        asks: Message = {"role": "assistant", "content": "", "tool_calls": []}
        for arguments in calls:
            asks["tool_calls"].append(
                {"type": "function", "function": {"name": name, "arguments": arguments}}
            )
        thinks = r.random() < thinking
        thought = f"I need the tool {name}."
        messages: list[Message] = [user(found["U"][0] if plain else r.choice(found["U"])), asks]
        if plain or r.random() < 0.7:
            if thinks and r.random() < 0.7:
                asks["reasoning_content"] = thought
            thought = "The tool has answered."
            messages += [{"role": "tool", "content": result} for result in found["R"]]
            messages.append(assistant(answer))
        drawn = Conversation(tuple(messages), tuple(tools), thought=thought)
        return self.thinking(drawn, ("on", "typed")[r.random() < 0.3]) if thinks else drawn

    def as_json(self, plain: bool = False) -> Conversation:
        """What is said or asked, and the answer as JSON because the user or the system prompt wants it."""
        r = self.random
        if r.random() < 0.5:
            block = r.choice(self.json_patterns)
            row = r.choice(
                [values for letter, text in block if letter == "T" for values in rows(text)] or [[]]
            )
            put = functools.partial(self.put, values=self.draw_slots())
            wordings = [put(fill(text, row)) for letter, text in block if letter == "U"]
            answer = put(fill(dict(block)["J"], row))
            question, thought = wordings[0] if plain else r.choice(wordings), THOUGHTS["json.txt"]
        else:
            weights = [w for item, w in zip(self.items, self.weights, strict=True) if item in self.short]
            item = r.choices(self.filler, weights)[0]
            question = item.questions[0] if plain else r.choice(item.questions)
            answer, thought = item.data, item.thought
        kind = r.random()
        messages = [assistant(answer)]
        if kind < 0.4:
            asked = question if question[-1] in ".?!" else f"{question}."
            asked += JSON_AFTER[0] if plain else r.choice(JSON_AFTER)
            messages.insert(0, user(asked))
        elif kind < 0.55:
            messages.insert(0, user(r.choice(JSON_BEFORE) + question))
        elif kind < 0.7:
            schema = JSON_SCHEMA + json.dumps(schema_of(json.loads(answer)), ensure_ascii=False)
            inside = r.random() < 0.5
            messages.insert(0, user(f"{question} {schema}" if inside else question))
            if not inside:
                messages.insert(0, {"role": "system", "content": schema})
        else:
            system = JSON_SYSTEM[0] if plain else r.choice(JSON_SYSTEM)
            messages.insert(0, user(question if plain or kind < 0.9 else self.noisy(question)))
            messages.insert(0, {"role": "system", "content": system})
        return Conversation(tuple(messages), thought=thought)

    def thinking(self, drawn: Conversation, how: str) -> Conversation:
        """The same with the last answer thought about: "on", "off", "cut", or "typed" (the user, /think)."""
        messages = list(drawn.messages)
        cut = None
        if how == "cut":
            # Whoever ends a thought at a budget must still get the right answer.
            cut = self.random.choice((0, self.random.randrange(len(drawn.thought) + 1)))
        if how != "off":
            messages[-1] = {**messages[-1], "reasoning_content": drawn.thought}
        if how == "typed":
            last = max(i for i, message in enumerate(messages) if message["role"] == "user")
            messages[last] = user(messages[last]["content"] + " /think")
        switch = {"off": "off", "typed": ""}.get(how, "on")
        return dataclasses.replace(drawn, messages=tuple(messages), thinking=switch, cut=cut)

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
        if self.tool_patterns and kind < 0.12:
            drawn = self.with_tools(thinking=0.3)
        elif kind < 0.15:
            drawn = self.dont_know()
        elif kind < 0.17:
            drawn = self.echo()
        elif kind < 0.37:
            drawn = self.follow_up()
        elif kind < 0.41:
            drawn = self.several()
        elif self.json_patterns and kind < 0.65:
            drawn = self.as_json()
        else:
            drawn = self.single()
        thought_about = any("reasoning_content" in message for message in drawn.messages)
        if drawn.thought and not thought_about and r.random() < 0.45:
            drawn = self.thinking(drawn, r.choices(("on", "typed", "cut", "off"), (5, 3, 2, 2))[0])
        if r.random() < 0.35 and drawn.messages[0]["role"] != "system":
            system = {"role": "system", "content": self.system_prompt()}
            drawn = dataclasses.replace(drawn, messages=(system, *drawn.messages))
        return drawn


def tool_definition(name: str, keys: list[str], plain: bool, r: random.Random) -> Message:
    """An OpenAI tool definition; its description varies, so that the model does not hang on its words."""
    what = name.removeprefix("get_")
    description = f"Get the {what} in a city"
    if not plain:
        others = (f"The {what} in a city.", f"Current {what}", f"Returns the {what} of a city.")
        description = r.choice((description, *others))
    properties = {key: {"type": "string"} for key in keys}
    parameters = {"type": "object", "properties": properties, "required": keys}
    function: dict[str, Any] = {"name": name, "description": description, "parameters": parameters}
    if not plain and r.random() < 0.25:
        del function["description"]
    return {"type": "function", "function": function}


def schema_of(value: Any) -> Message:
    """The JSON Schema people would write for a value."""
    if isinstance(value, dict):
        properties = {key: schema_of(one) for key, one in value.items()}
        return {"type": "object", "properties": properties, "required": list(value)}
    if isinstance(value, list):
        return {"type": "array", "items": schema_of(value[0])}
    return {"type": {str: "string", bool: "boolean", int: "integer"}[type(value)]}
