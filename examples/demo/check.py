"""Ask a demo model everything it was trained on, decoding greedily, and say how much is exactly right.

    python examples/demo/check.py                       # both models; exits 1 below the thresholds
    python examples/demo/check.py --model lmx-demo -v   # print every question with its outcome
    python examples/demo/check.py --kv-bits 4           # the same with quantised keys and values

An answer counts when it equals the trained one, character by character, and the model stops by itself.
In conversations the earlier turns are the trained ones and the last answer is what counts; names, numbers and
the questions in between are drawn anew, from the same lists as in the training.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conversation import Conversation, Message, assistant, rendered, spoken, user
from corpus import JSON_SYSTEM, Corpus
from material import blocks, items, unknown

with contextlib.suppress(OSError):
    # See train.py: ten times faster on the CPU where it is found.
    ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)

import mlx_lm.utils
from mlx_lm.generate import BatchGenerator

HERE = Path(__file__).parent
MODELS = HERE.parent / "models"
MAX_BYTES = {"lmx-demo": 4_000_000, "lmx-demo-mini": 1_600_000}
# Share that must be right, by kind of question. What is not named here is reported and not judged.
THRESHOLDS = {
    "lmx-demo": {
        "canonical": 1.0,
        "paraphrases": 0.97,
        "conversations": 0.97,
        "questions.json": 1.0,
        "tool_questions.json": 1.0,
        "thinking_questions.json": 1.0,
        "json_questions.json": 1.0,
        "thinks first": 0.85,
        "thinks not": 0.97,
        "thought cut short": 0.95,
        "JSON": 0.75,
        "tools": 0.9,
    },
    "lmx-demo-mini": {"canonical": 0.9},
}
SYSTEM: Message = {"role": "system", "content": "You are a helpful assistant."}
SAMPLES = (
    "Hello, world!",
    "naïve café, ÅÄÖ",
    "🚀👩‍🚀 日本語 שלום",
    "a\tb\n\n  c\r\n",
    '{"a": [1, 2]}',
    "\x00\x7f",
)
SEED = 987_654  # no seed of the training
DRAWS_PER_PATTERN = 6


@dataclass
class Case:
    """One prompt and the text that should come back. options: switches of the chat template.

    opened: text that the answer begins with before anything is generated, where a thought is cut short.
    """

    kind: str
    messages: list[Message]
    answer: str
    tools: list[Message] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    opened: str = ""
    got: str = ""
    stopped: bool = False

    @property
    def right(self) -> bool:
        return self.stopped and self.got == self.answer


def case(kind: str, conversation: Conversation) -> Case:
    """The last answer is what is asked for, with what is thought before it where that is to be generated."""
    before, last = list(conversation.messages[:-1]), conversation.messages[-1]
    text, opened = spoken(last), ""
    if conversation.cut is not None:
        opened = f"{last['reasoning_content'][: conversation.cut]}</think>"
        text = f"\n\n{text}"
    elif "reasoning_content" in last:
        text = f"{last['reasoning_content']}\n</think>\n\n{text}"
        text = text if conversation.thinking == "on" else f"<think>\n{text}"
    return Case(kind, before, text, list(conversation.tools), conversation.options, opened)


def thinking_cases(corpus: Corpus) -> list[Case]:
    made = []
    how = {
        "thinks first": "on",
        "asked with /think": "typed",
        "thought cut short": "cut",
        "thinks not": "off",
    }
    for kind, way in how.items():
        for item in corpus.items:
            asked = Conversation((user(item.questions[0]), assistant(item.answer)), thought=item.thought)
            made.append(case(kind, corpus.thinking(asked, way)))
    return made


def entries(name: str) -> list[Any]:
    found: list[Any] = json.loads((HERE / name).read_text(encoding="utf-8"))
    return found


def file_cases() -> list[Case]:
    """What the tests ask, word by word."""
    made = []
    for entry in entries("questions.json"):
        messages = [*entry.get("messages", []), user(entry["question"])]
        made.append(Case("questions.json", messages, entry["answer"]))
    made += [
        Case("json_questions.json", entry["messages"], json.dumps(entry["answer"]))
        for entry in entries("json_questions.json")
    ]
    for entry in entries("thinking_questions.json"):
        text = f"{entry['reasoning']}\n</think>\n\n{entry['answer']}"
        asked = user(entry["question"])
        made.append(Case("thinking_questions.json", [asked], text, options={"reasoning_effort": "medium"}))
        asked = user(f"{entry['question']} /think")
        made.append(Case("thinking_questions.json", [asked], f"<think>\n{text}"))
    for entry in entries("tool_questions.json"):
        asks = [user(entry["question"])]
        called = [{"type": "function", "function": call} for call in entry["calls"]]
        calls: Message = {"role": "assistant", "content": "", "tool_calls": called}
        told: list[Message] = [{"role": "tool", "content": result} for result in entry["results"]]
        made.append(Case("tool_questions.json", asks, spoken(calls), entry["tools"]))
        made.append(Case("tool_questions.json", [*asks, calls, *told], entry["answer"], entry["tools"]))
    return made


def cases(model: str) -> list[Case]:
    made: list[Case] = []
    for item in items(model):
        first, *others = item.questions
        made.append(Case("canonical", [user(first)], item.answer))
        made.append(Case("with a system prompt", [SYSTEM, user(first)], item.answer))
        made.append(Case("lower case, no full stop", [user(first.lower().rstrip(".?!"))], item.answer))
        made += [Case("paraphrases", [user(question)], item.answer) for question in others]
    answer, questions = unknown()
    made += [Case("says it does not know", [user(question)], answer) for question in questions]
    corpus = Corpus(model, SEED)
    for pattern in blocks("conversations.txt"):
        for _ in range(DRAWS_PER_PATTERN):
            made.append(case("conversations", corpus.follow_up(pattern, plain=True, strange=0.0)))
    introduction = next(blocks("conversations.txt"))
    made += [
        case("names it never saw", corpus.follow_up(introduction, plain=True, strange=1.0)) for _ in range(24)
    ]
    if model == "lmx-demo":
        for pattern in corpus.tool_patterns:
            made += [case("tools", corpus.with_tools(True, pattern)) for _ in range(DRAWS_PER_PATTERN)]
        made += [case("JSON", corpus.as_json(plain=True)) for _ in range(150)]
        for item in corpus.filler:
            asked = Conversation(
                ({"role": "system", "content": JSON_SYSTEM[0]}, user(item.questions[0]), assistant(item.data))
            )
            made.append(case("JSON, by system prompt", asked))
        made += file_cases()
    made += thinking_cases(corpus)
    return made


def tokens(tokenizer: Any, one: Case) -> list[int]:
    # As servers do it: enable_thinking is passed with every request.
    options = {"enable_thinking": True, **one.options}
    text: str = tokenizer.apply_chat_template(
        one.messages, tools=one.tools or None, add_generation_prompt=True, tokenize=False, **options
    )
    ids: list[int] = tokenizer.encode(text + one.opened, add_special_tokens=False)
    return ids


def answer_all(model: Any, tokenizer: Any, asked: list[Case], kv_bits: int | None) -> float:
    """Fill in what the model says to each case; returns tokens per second."""
    limits = [len(tokenizer.encode(one.answer)) + 24 for one in asked]
    generator = BatchGenerator(model, stop_tokens=[[token] for token in tokenizer.eos_token_ids])
    caches = None
    if kv_bits is not None:
        sys.path.insert(0, str(HERE.parents[1]))
        from appliance.engine.caches import make

        caches = [make(model, kv_bits) for _ in asked]
    uids = generator.insert([tokens(tokenizer, one) for one in asked], limits, caches=caches)
    by_uid = dict(zip(uids, asked, strict=True))
    said: dict[int, list[int]] = {uid: [] for uid in uids}
    begun, count = time.monotonic(), 0
    while responses := generator.next_generated():
        for response in responses:
            count += 1
            if response.finish_reason != "stop":
                said[response.uid].append(response.token)
            if response.finish_reason is not None:
                one = by_uid[response.uid]
                one.stopped = response.finish_reason == "stop"
                one.got = tokenizer.decode(said[response.uid])
    generator.close()
    return count / (time.monotonic() - begun)


def check_folder(name: str) -> list[str]:
    """What is wrong with the folder itself."""
    wrong = []
    size = sum(file.stat().st_size for file in (MODELS / name).rglob("*") if file.is_file())
    print(f"{name}: {size:,} bytes")
    if size > MAX_BYTES[name]:
        wrong.append(f"the folder is larger than {MAX_BYTES[name]:,} bytes")
    return wrong


def check_tokenizer(tokenizer: Any) -> list[str]:
    """Any text must come back unchanged, and streamed pieces must add up to the whole."""
    wrong = []
    for text in SAMPLES:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if tokenizer.decode(ids) != text:
            wrong.append(f"{text!r} comes back as {tokenizer.decode(ids)!r}")
        detokenizer = tokenizer.detokenizer
        detokenizer.reset()
        pieces = []
        for token in ids:
            detokenizer.add_token(token)
            pieces.append(detokenizer.last_segment)
        detokenizer.finalize()
        pieces.append(detokenizer.last_segment)
        if "\x00" not in text and "".join(pieces) != text:
            wrong.append(f"{text!r} is streamed as {''.join(pieces)!r}")
    if type(tokenizer.detokenizer).__name__ != "BPEStreamingDetokenizer":
        wrong.append(f"the detokenizer is {type(tokenizer.detokenizer).__name__}")
    return wrong


def check_template(name: str, tokenizer: Any) -> list[str]:
    """What the training wrote must be what the chat template writes."""
    corpus = Corpus(name, SEED)
    for _ in range(400):
        drawn = corpus.draw()
        pieces = [text for text, _ in rendered(drawn)]
        # Everything up to the last answer, then the whole.
        written = tokenizer.apply_chat_template(
            list(drawn.messages[:-1]),
            tools=list(drawn.tools) or None,
            add_generation_prompt=True,
            tokenize=False,
            **drawn.options,
        )
        prompt = "".join(pieces[:-2])
        if not (written == prompt or (drawn.cut is not None and prompt.startswith(written))):
            return [f"the chat template asks {written!r} instead of {prompt!r}"]
        whole = tokenizer.apply_chat_template(
            list(drawn.messages), tools=list(drawn.tools) or None, tokenize=False
        )
        if drawn.cut is None and drawn.thinking != "off" and whole != "".join(pieces):
            return [f"the chat template writes {whole!r}"]
    return []


def check_twins() -> list[str]:
    """A swap is fair only where both models read the same tokens."""
    files = ("tokenizer.json", "chat_template.jinja")
    return [
        f"{file} differs"
        for file in files
        if len({(MODELS / name / file).read_bytes() for name in MAX_BYTES}) > 1
    ]


def check(name: str, verbose: bool, kv_bits: int | None) -> bool:
    wrong = check_folder(name) + check_twins()
    model, tokenizer = mlx_lm.utils.load(str(MODELS / name))[:2]
    wrong += check_tokenizer(tokenizer) + check_template(name, tokenizer)
    asked = cases(name)
    pace = answer_all(model, tokenizer, asked, kv_bits)
    for one in asked:
        if verbose or not one.right:
            mark = "ok " if one.right else "BAD"
            question = " / ".join(
                str(message["content"]) for message in one.messages if message["role"] == "user"
            )
            print(f"  {mark} [{one.kind}] {question!r}")
            if not one.right:
                print(f"        wanted {one.answer!r}")
                print(f"        got    {one.got!r}{'' if one.stopped else ' (did not stop)'}")
    for kind in dict.fromkeys(one.kind for one in asked):
        ours = [one for one in asked if one.kind == kind]
        share = sum(one.right for one in ours) / len(ours)
        least = THRESHOLDS[name].get(kind)
        verdict = "" if least is None else f"  (at least {least:.0%})"
        print(f"  {kind:<26} {sum(one.right for one in ours):>5} of {len(ours):<5} {share:8.2%}{verdict}")
        if least is not None and share < least:
            wrong.append(f"{kind}: {share:.2%} is less than {least:.0%}")
    print(f"  {pace:,.0f} tokens/s, 32 rows together")
    for problem in wrong:
        print(f"  FAIL {problem}")
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask the demo models what they were trained on.")
    parser.add_argument("--model", choices=sorted(THRESHOLDS), help="only this one (default: both)")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the right answers too")
    parser.add_argument("--kv-bits", type=int, choices=[4, 8], help="quantise keys and values as LMX does")
    options = parser.parse_args()
    names = [options.model] if options.model else sorted(THRESHOLDS)
    results = [check(name, options.verbose, options.kv_bits) for name in names]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
