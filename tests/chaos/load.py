"""Steady load from a process of its own: `python -m tests.chaos.load PORT CLIENTS SEED`.

Clients in a closed loop, on raw sockets: streams and whole answers, short and longer prompts, single
questions and conversations that go on. Everything is greedy, so each answer can be held against what
the same question got before the chaos. Standard input ends it; then one line of JSON per request goes
to standard output.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from tests.e2e.http_stream import Answer, post

# However bad it gets: the queue's time, a hang found out and a load, and a good deal for a busy machine.
DEADLINE_S = 90.0
THINK_S = 0.15
AGAIN_S = 0.5  # after a refusal, as any client that is not hostile waits a moment
QUESTIONS = (
    "Who are you?",
    "What is LMX?",
    "How do I swap models?",
    "What is the capital of France?",
    "Count from one to one hundred.",
)
LONG = "Tell me about memory. " * 60
MODELS = ("", "", "", "default", "demo", "mini")
FOLLOW_UPS = 2


@dataclass
class Record:
    """What one request came to. begin, end: monotonic seconds. outcome: `ok`, an error's code, or what
    was wrong with it in words. key: the same for requests that must get the same text."""

    begin: float
    end: float
    kind: str
    status: int
    outcome: str
    typed: bool  # tokens, or an error with a code and, where a retry helps, Retry-After
    key: str
    model: str
    text: str
    first_s: float | None = None
    message: str = ""  # of a refusal


# Ends only by what a person does, so no time can be named after which a retry helps.
BY_HAND = (
    "quarantined",
    "lmx reconcile",
    "edit the spec",
    "residency",
    "nor can it as it ran before: does not fit",
)


def judge(answer: Answer, stream: bool) -> tuple[str, bool]:
    """(outcome, whether that is one of the ends that are allowed)."""
    if answer.error is not None:
        return answer.error.split(":")[0], False
    if answer.status != 200:
        return _refused(answer)
    errors = [event["error"] for event in answer.events if "error" in event]
    if errors:
        # A stream that has begun says so in an event, and does not claim to be done.
        return f"{errors[0].get('code')} (stream)", bool(errors[0].get("code")) and not answer.done
    if not answer.ended:
        return "cut", False
    if stream:
        ends = [c.get("finish_reason") for e in answer.events for c in e.get("choices", ())]
        return ("ok", True) if answer.done and any(ends) else ("no [DONE]", False)
    reason = answer.json["choices"][0]["finish_reason"]
    return ("ok", True) if reason in ("stop", "length") else (f"finish_reason {reason}", False)


def _refused(answer: Answer) -> tuple[str, bool]:
    try:
        error = answer.json["error"]
        code, message = error["code"], error["message"]
    except (ValueError, KeyError, TypeError):
        return f"{answer.status} without a code", False
    if answer.status in (429, 503) and not answer.headers.get("retry-after", "").isdigit():
        return f"{code} without Retry-After", any(word in message for word in BY_HAND)
    return code, answer.status < 500 or answer.status in (503, 507)


def said(answer: Answer, stream: bool) -> tuple[str, str]:
    """(text, the model that gave it)."""
    if stream:
        return answer.text, next((e["model"] for e in answer.events if "model" in e), "")
    return answer.json["choices"][0]["message"]["content"], answer.json["model"]


class Client:
    def __init__(self, port: int, seed: str, records: list[Record]) -> None:
        self._port, self._records = port, records
        self._random = random.Random(seed)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._conversation(stop)

    async def _conversation(self, stop: asyncio.Event) -> None:
        draw = self._random
        model, stream = draw.choice(MODELS), draw.random() < 0.6
        long = draw.random() < 0.15
        messages = [{"role": "user", "content": LONG if long else draw.choice(QUESTIONS)}]
        tokens = draw.choice((8, 32, 64, 128))
        for _ in range(1 + (draw.randrange(FOLLOW_UPS + 1) if not long else 0)):
            text = await self.ask(model, messages, tokens, stream)
            await asyncio.sleep(draw.expovariate(1 / THINK_S))
            if text is None:
                await asyncio.sleep(AGAIN_S)
            if text is None or stop.is_set():
                return
            messages = [*messages, {"role": "assistant", "content": text}]
            messages.append({"role": "user", "content": draw.choice(QUESTIONS)})

    async def ask(self, model: str, messages: list[dict[str, str]], tokens: int, stream: bool) -> str | None:
        """The answer's text; None where there is none. Either way there is a record of it."""
        body: dict[str, Any] = {
            "messages": messages,
            "max_tokens": tokens,
            "temperature": 0,
            "stream": stream,
        }
        if model:
            body["model"] = model
        begin = time.monotonic()
        outcome, typed, text, answered = "deadline", False, "", ""
        answer = Answer()
        try:
            async with asyncio.timeout(DEADLINE_S):
                answer = await post(self._port, "/v1/chat/completions", body)
            outcome, typed = judge(answer, stream)
            if outcome == "ok":
                text, answered = said(answer, stream)
        except TimeoutError:
            pass  # `deadline` it is
        end = time.monotonic()
        first = answer.times[0] - begin if answer.times else None
        key = json.dumps([messages, tokens])
        kind = "stream" if stream else "whole"
        message = answer.body[:400].decode("utf-8", "replace") if answer.status not in (0, 200) else ""
        self._records.append(
            Record(begin, end, kind, answer.status, outcome, typed, key, answered, text, first, message)
        )
        return text if outcome == "ok" else None


async def load(port: int, clients: int, seed: str) -> list[Record]:
    """Until standard input ends."""
    records: list[Record] = []
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), stop.set)
    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(Client(port, f"{seed}/{number}", records).run(stop))
    loop.remove_reader(sys.stdin.fileno())
    return records


def main() -> None:
    port, clients, seed = sys.argv[1:]
    for record in asyncio.run(load(int(port), int(clients), seed)):
        print(json.dumps(asdict(record)))


if __name__ == "__main__":
    main()
